"""`torchvision:NAME`: any classifier of torchvision, with the preprocessing of its newest weights."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from suffice.class_names import imagenet_1k
from suffice.descriptions import fields_of_transform
from suffice.errors import InputError, reason
from suffice.models.source import Source
from suffice.models.weights import (
    Loaded,
    head_size,
    load_weights,
    read_checkpoint,
    said_of_names,
    said_of_normalisation,
)

# DenseNet's published files still say norm.1 where the module says norm1.
_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def load(name: str, weights: str | None = None, num_classes: int | None = None) -> Source:
    """A torchvision classifier; `weights` is a file, `random`, `download`, or None for the file in torch's cache."""
    import torch
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
        raise InputError(f"torchvision has no classifier {name!r}; similar names: {', '.join(near) or 'none'}")
    newest, loaded = models.get_model_weights(name).DEFAULT, Loaded()
    if weights == "download":
        module = _download(name, newest)
    else:
        module = _without_weights(name, num_classes)
        if weights != "random":
            file = weights or Path(torch.hub.get_dir(), "checkpoints", newest.url.rpartition("/")[2])
            if weights is None and not Path(file).is_file():
                raise InputError(
                    f"no weights for torchvision:{name} on this machine; fetch {newest.url} to {file}, or pass "
                    "weights=FILE, or weights=download to let torchvision fetch it, or weights=random to go without "
                    "(--weights)"
                )
            checkpoint = read_checkpoint(file)
            if num_classes is None:
                own = head_size(checkpoint.choice(module, _today), module.state_dict(), 1000)
                if own is not None:
                    module, num_classes = _without_weights(name, own), own
            advice = "--classes with as many names"
            loaded = load_weights(module, checkpoint, f"torchvision:{name}", _today, advice)
    published = weights in (None, "random", "download")
    names = loaded.class_names or (imagenet_1k() if num_classes in (None, 1000) else None)
    return Source(
        module.eval(),
        f"torchvision:{name}",
        fields_of_transform(newest.transforms()) or {},
        names,
        assumed=loaded.assumed | said_of_normalisation(published) | said_of_names(not published, loaded, names),
        outputs="logits" if published else None,  # of own weights it is found out
        repeatable=True,
        weights_sha256=loaded.sha256,
    )


def _today(old: str) -> str:
    """A name in a published file as the module has it now."""
    return _DENSENET.sub(r"\1\2", old)


def _without_weights(name: str, num_classes: int | None) -> Any:
    import inspect

    from torchvision import models

    builder = models.get_model_builder(name)
    # Their builders warn unless told how to start the weights, which are to be replaced anyway.
    options: dict[str, Any] = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    if name in ("googlenet", "inception_v3") and "aux_logits" in inspect.getsource(builder):
        options["aux_logits"] = True
    if num_classes is not None:
        options["num_classes"] = num_classes
    return builder(weights=None, **options)


def _download(name: str, newest: Any) -> Any:
    from torchvision import models

    try:
        return models.get_model(name, weights=newest)
    except Exception as error:  # urllib, ssl and hash errors all mean the same here
        raise InputError(f"torchvision could not download {newest.url}: {reason(error)}") from error
