"""The command line: `suffice COMMAND …`, one file a command.

Nothing heavy is imported before a command needs it, so that `suffice --help` answers at once. What methods, metrics,
occlusions, models and data sets there are, help reads off the registries, which import none of them.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import typer

from suffice.cli.loading import spread
from suffice.cli.process import (
    UnreadError,
    complain,
    end_at_once,
    ended_in_order,
    give_stdout_back,
    print_any_name,
    take_back,
    wait_without_spinning,
    warn_in_one_line,
)
from suffice.errors import InputError

_INTERRUPTED, _UNREAD, _TERMINATED = 130, 141, 143  # 128 + the signal, as shells have it


def _app() -> typer.Typer:
    """The commands, whose help says what there is when they are imported: after warnings have found their form."""
    from suffice.cli import (
        audit,
        bench,
        bench_report,
        circuit,
        explain,
        score,
        train_classifier,
        train_lax,
        train_matcher,
        verify,
        web,
    )

    app = typer.Typer(
        name="suffice",
        help="Find a small part of an image that suffices for a classifier's decision.",
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain help: rich takes longer to import than everything else together
    )
    app.callback(invoke_without_command=True)(_suffice)
    app.command("audit")(audit.audit)
    app.command("bench")(bench.bench)
    app.command("bench-report")(bench_report.bench_report)
    app.command("explain")(explain.explain)
    app.command("score")(score.score)
    app.command("verify")(verify.verify)
    app.command("circuit")(circuit.circuit)
    app.command("train-classifier")(train_classifier.train_classifier)
    app.command("train-lax")(train_lax.train_lax)
    app.command("train-matcher")(train_matcher.train_matcher)
    app.command("web")(web.web)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"suffice {version('suffice')}")
        raise typer.Exit


def _suffice(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Find a small part of an image that suffices for a classifier's decision."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise InputError("expected a command; got none")


# typer hides click, or a copy of it, and with it the base of all its complaints.
_ClickException: Any = typer.BadParameter.__mro__[2]


def main() -> None:
    """Run the command line.

    Exit status: 0 done; 1 some images failed; 2 a wrong call or bad input; 3 a condition of `audit --fail-if` holds;
    130 interrupted; 141 nobody reads on; 143 terminated.
    """
    print_any_name()
    wait_without_spinning()
    end_at_once()
    with warnings.catch_warnings(), ended_in_order() as signals:
        warn_in_one_line()
        try:
            sys.exit(_run(signals))
        finally:
            give_stdout_back()
            take_back()


def _run(signals: list[int]) -> int:
    try:
        command = typer.main.get_command(_app())
        status = command.main(spread(sys.argv[1:]), prog_name="suffice", standalone_mode=False)
        if status == _INTERRUPTED:  # typer makes this of Ctrl-C, without a word
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except InputError as error:
        complain(str(error))
        return 2
    except _ClickException as error:
        complain(error.format_message())
        return 2
    except (KeyboardInterrupt, typer.Abort):
        complain("terminated" if signals else "interrupted")
        return _TERMINATED if signals else _INTERRUPTED
    except UnreadError:
        return _UNREAD
