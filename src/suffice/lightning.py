"""A callback for Lightning that logs explanations of fixed images after each epoch: what a model sees as it learns.

    classifier = suffice.Classifier(task.network, input_size=(32, 32), mean=0.5, std=0.5, outputs="logits")
    trainer = lightning.Trainer(callbacks=[LogExplanations(classifier, images, occlusion="mean")])

The classifier asks the very module that is trained, so each epoch's weights are explained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.explainers import explain
from suffice.explanation import Explanation
from suffice.progress import unseen

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:  # pragma: no cover - said to whoever has no Lightning
    raise ImportError('expected Lightning for suffice.lightning; pip install "suffice[train]"') from error

_DIMMED = 0.25  # how bright what is no part of the explanation stays in a picture


class LogExplanations(Callback):
    """Explains the same images every so many epochs, and logs pictures and numbers.

    By image `explanation/N`: a picture, where a logger takes pictures (`add_image` of its experiment, as TensorBoard's,
    or `log_image`, as that of Weights & Biases), and the numbers `area`, `confidence`, `explanation_confidence` and
    `sufficient` (0 or 1), where one takes numbers. All of the last epoch is `latest`.

    Args:
        classifier: of the module that is trained, or of a part of it.
        images: (N, C, H, W) in [0, 1].
        targets: one class for each image, such as its label; None for the model's own choices.
        every: epochs between explanations.
        name: under which it is logged.
        asked: what `suffice.explain` takes: `method`, `occlusion`, `keep_confidence`, settings of the method.

    Raises:
        InputError: images of another size, or another number of targets.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: Tensor,
        targets: Sequence[int | str] | None = None,
        *,
        every: int = 1,
        name: str = "explanation",
        **asked: Any,
    ) -> None:
        if every < 1:
            raise InputError(f"expected every of at least 1 epoch; got {every}")
        self.classifier, self.images = classifier, classifier.check_images(images)
        if targets is not None and len(targets) != len(self.images):
            raise InputError(f"expected a target for each of {len(self.images)} images; got {len(targets)}")
        self.targets = [None] * len(self.images) if targets is None else list(targets)
        self.every, self.name, self.asked = every, name, asked
        self.latest: list[Explanation] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain and log, on the first process alone."""
        if not trainer.is_global_zero or (trainer.current_epoch + 1) % self.every:
            return
        with torch.enable_grad():  # some methods learn a mask
            self.latest = [
                explain(self.classifier, image, target=target, progress=unseen, **self.asked)
                for image, target in zip(self.images, self.targets, strict=True)
            ]
        for number, (image, found) in enumerate(zip(self.images, self.latest, strict=True)):
            self._log(trainer, f"{self.name}/{number}", picture(image, found), found)

    def _log(self, trainer: Trainer, name: str, drawn: Tensor, found: Explanation) -> None:
        numbers = {
            f"{name}/{each}": float(getattr(found, each))
            for each in ("area", "confidence", "explanation_confidence", "sufficient")
        }
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.global_step)
            if hasattr(logger, "log_image"):
                logger.log_image(key=name, images=[drawn], step=trainer.global_step)
            elif hasattr(experiment := getattr(logger, "experiment", None), "add_image"):
                experiment.add_image(name, drawn, trainer.global_step)  # type: ignore[union-attr]


def picture(image: Tensor, explanation: Explanation) -> Tensor:
    """The image (C, H, W) in [0, 1] with all but the explanation's part dimmed."""
    return image.cpu() * torch.where(explanation.mask.cpu(), 1.0, _DIMMED)
