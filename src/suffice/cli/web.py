"""`suffice web`: the page to explore in, and the HTTP interface behind it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from suffice.buffers import keep_buffers
from suffice.cli.command import whole_number
from suffice.cli.loading import NONE_GIVEN, ModelOptions, load, taking_model_options
from suffice.cli.options import SOURCES, BatchSize, Classes, Device, Traceback
from suffice.cli.process import complain, say
from suffice.errors import InputError

_NEEDED = ("fastapi", "uvicorn", "python_multipart")


@taking_model_options()
def web(
    host: Annotated[
        str, typer.Option(help="Where to listen; elsewhere than on this machine alone a token is needed.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(parser=whole_number, metavar="INTEGER", help="0 takes any that is free.")] = 8765,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, and open nothing.")] = False,
    token: Annotated[
        str | None,
        typer.Option(help="That visitors have to know. [default: none on this machine; elsewhere one is made]"),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{SOURCES}, module.path:function or FILE.onnx; one or several. [default: efficientnet-lite0]"
        ),
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="Of each --model in turn: a file, 'random', or 'download'.")
    ] = None,
    classes: Classes = None,
    adapter: Annotated[
        str | None, typer.Option(metavar="FILE", help="The adapter of a method that needs one, such as lax.")
    ] = None,
    audit: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="What `suffice audit` wrote: paste its evidence on your own images, at /audit."
        ),
    ] = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    model_options: ModelOptions = NONE_GIVEN,
    show_traceback: Traceback = False,
) -> int:
    """Open a page to explore explanations in: drop an image, see the part that suffices, try your own.

    It listens on this machine alone unless --host says otherwise. The page asks no other host for anything.
    """
    if token is not None and not token.strip():
        raise InputError("expected a --token that is not empty; got none")
    names: list[str | None] = [*model] if model else [None]
    files: list[str | None] = [*weights] if weights else [None] * len(names)
    if len(files) != len(names):
        raise InputError(f"expected --weights once for each --model, or never; got {len(files)} for {len(names)}")
    if len(names) > 1 and (classes is not None or any(value is not None for value in vars(model_options).values())):
        raise InputError("expected one --model with --classes and what is said of its input; got several")
    _check_installed()
    keep_buffers()

    # Only now what takes a second to import.
    from suffice.images import check_for_photos
    from suffice.web.audited import open_audit
    from suffice.web.served import Served, told_apart
    from suffice.web.serving import serve

    models: list[Served] = []
    for name, file in zip(names, files, strict=True):
        classifier = load(
            name, weights=file, classes=classes, device=device, options=model_options.fields(),
            show_traceback=show_traceback, batch_size=batch_size,
        )  # fmt: skip
        check_for_photos(classifier)
        words: dict[str, Any] = {"model": name, "weights": file, "classes": classes, **model_options.words()}
        label = told_apart(classifier.name, [each.name for each in models])
        needed = {} if adapter is None else {"adapter": adapter}
        models.append(Served(label, classifier, {key: value for key, value in words.items() if value}, needed))
    serve(
        models, host=host, port=port, token=token, browser=not no_browser,
        say=lambda address: say(f"suffice web: {address}"), audit=None if audit is None else open_audit(audit, models),
    )  # fmt: skip
    complain("stopped")
    return 0


def _check_installed() -> None:
    from importlib.util import find_spec

    lacking = [name for name in _NEEDED if find_spec(name) is None]
    if lacking:
        raise InputError(f'suffice web needs {", ".join(lacking)}: pip install "suffice[web]"')
