"""`timm:NAME`: any model of timm, with the preprocessing of its own config."""

from __future__ import annotations

import difflib
from typing import Any

from suffice.carried import timm_fields
from suffice.class_names import imagenet_1k
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


def load(name: str, weights: str | None = None, num_classes: int | None = None) -> Source:
    """A timm model; `weights` is a file, `random`, `download`, or None for the file in the Hugging Face cache."""
    import timm

    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.3)
        raise InputError(f"timm has no model {architecture!r}; similar names: {', '.join(near) or 'none'}")
    loaded = Loaded()
    if weights == "download":
        module = _download(name)
    else:
        module = _built(name, num_classes)
        if weights != "random":
            checkpoint = read_checkpoint(weights or _cached(name, module.pretrained_cfg))
            if num_classes is None:
                own = head_size(checkpoint.choice(module), module.state_dict(), module.num_classes)
                module = module if own is None else _built(name, own)
            loaded = load_weights(module, checkpoint, f"timm:{name}", advice="--classes with as many names")
    classes = getattr(module, "num_classes", None)
    if classes == 0:
        raise InputError(f"expected a classifier; timm:{name} has no classes, it only makes features")
    published = weights in (None, "random", "download")
    names = loaded.class_names or (imagenet_1k() if classes == 1000 else None)
    return Source(
        module.eval(),
        f"timm:{name}",
        timm_fields(module.pretrained_cfg, module),
        names,
        assumed=loaded.assumed | said_of_normalisation(published) | said_of_names(not published, loaded, names),
        outputs="logits" if published else None,  # of own weights it is found out
        repeatable=True,
        weights_sha256=loaded.sha256,
    )


def _built(name: str, num_classes: int | None) -> Any:
    import timm

    try:
        return timm.create_model(name, pretrained=False, **_head(num_classes))
    except RuntimeError as error:  # an unknown tag after the dot
        raise InputError(f"timm cannot build {name!r}: {error}") from error


def _head(num_classes: int | None) -> dict[str, Any]:
    return {} if num_classes is None else {"num_classes": num_classes}


def _download(name: str) -> Any:
    import timm

    try:
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # timm and its hub client raise many types, all of which mean the same here
        raise InputError(f"timm could not download weights for {name}: {reason(error)}") from error


def _cached(name: str, config: dict[str, Any]) -> str:
    """The weights in the local cache, or an error that says what to fetch and where to put it."""
    from huggingface_hub import try_to_load_from_cache

    hub = config.get("hf_hub_id")
    if not hub:
        raise InputError(
            f"timm publishes no weights for {name}; pass weights=FILE, or weights=random to go without (--weights)"
        )
    for file in ("model.safetensors", "pytorch_model.bin"):
        path = try_to_load_from_cache(hub, file)
        if isinstance(path, str):
            return path
    raise InputError(
        f"no weights for timm:{name} on this machine; fetch model.safetensors of {hub!r} from the Hugging Face hub "
        "and pass weights=FILE, or weights=download to let timm fetch it, or weights=random to go without (--weights)"
    )
