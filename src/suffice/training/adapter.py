"""Training of a LAX adapter on a frozen classifier, which is the same to the last bit before and after.

Source: *Learning Quantifiable Visual Explanations Without Ground-Truth*, section 3.2 and Algorithm 1; table 6 for the
settings of the presets.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from suffice.classifier import Classifier
from suffice.engine import evaluation_mode, frozen
from suffice.explainers.lax import (
    Adapter,
    AdapterSettings,
    lax_loss,
    msi_loss,
    new_adapter,
    soft_threshold,
)
from suffice.features import record
from suffice.training.run import TrainingSettings, TrainingTask


class LaxTraining(TrainingSettings):
    """Settings of the training of an adapter."""

    epochs: float = Field(1.0, gt=0, le=100_000)
    batch_size: int = Field(64, ge=1)
    design: Literal["paper", "fine"] = "fine"
    objective: Literal["paper", "msi"] = "msi"
    least_map: int = Field(1, ge=1, le=64)  # design paper: features below this side are upsampled to it
    stride: int = Field(4, ge=1, le=32)  # design fine: pixels of the finest stage that is read
    entropy_weight: float = Field(5.0, ge=0, le=1e6)  # objective paper: λ
    temperature: float = Field(0.5, gt=0, le=1e6)  # objective paper: t
    area_weight: float = Field(3.0, ge=0, le=1e6)  # objective msi
    rest_weight: float = Field(1.0, ge=0, le=1e6)  # objective msi
    alpha_min: float = Field(0.5, ge=0, lt=1)  # objective msi: as in the metric
    width: float = Field(0.1, gt=0, le=10)  # objective msi: of the slope that stands for a threshold
    labels: Literal["true", "predicted"] = "true"  # what the maps have to keep

    def adapter(self) -> AdapterSettings:
        """The part that shapes the adapter before it is trained."""
        return AdapterSettings(design=self.design, least_map=self.least_map, stride=self.stride, seed=self.seed)


_PAPER: dict[str, Any] = {
    "design": "paper",
    "objective": "paper",
    "optimizer": "adam",
    "epochs": 500.0,
    "temperature": 0.5,
}
PRESETS: dict[str, dict[str, Any]] = {
    "default": {"epochs": 20.0, "schedule": "cosine"},
    # Table 6 and section 4; the batch size is not said.
    "paper-synthetic-mnist": {**_PAPER, "learning_rate": 1e-3, "entropy_weight": 5.0},
    "paper-cub200": {**_PAPER, "learning_rate": 1e-4, "entropy_weight": 5.0},
    "paper-cifar10": {**_PAPER, "learning_rate": 1e-3, "entropy_weight": 2.0, "least_map": 8, "alpha_min": 0.4},
}


class LaxTask(TrainingTask):
    """Trains an adapter; the classifier takes part in every step and is left as it is.

    Args:
        classifier: a network with spatial features.
        settings: of adapter, loss and run.

    Raises:
        InputError: a black box, or a network without spatial features.
    """

    def __init__(self, classifier: Classifier, settings: LaxTraining) -> None:
        super().__init__(settings)
        self.chosen = settings
        self.adapter = new_adapter(classifier, settings.adapter())
        self.network = self.adapter.module
        # No attribute that Lightning would take for something to train, move or save.
        self._classifier = classifier
        classifier.find_out()

    def finished(self) -> Adapter:
        """The adapter as it is now, with how it was trained."""
        return dataclasses.replace(
            self.adapter, module=self.network.eval(), trained={**self.chosen.model_dump(), "steps": self.steps_taken}
        )

    def on_fit_start(self) -> None:
        """Move the classifier to the adapter's device."""
        self._classifier.require_module("LAX").to(self.device)

    def leave(self) -> None:
        """Move the classifier back to where it was."""
        self._classifier.require_module("LAX").to(self._classifier.device)

    def loss(self, images: Tensor, labels: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """One step of Algorithm 1, and the loss of what the classifier says of the masked images."""
        classifier, settings = self._classifier, self.chosen
        module = classifier.require_module("LAX")
        images = images.contiguous(memory_format=torch.channels_last)

        def logits(shown: Tensor) -> Tensor:
            return classifier.read(module(shown)).float()

        with frozen(module), evaluation_mode(module):
            normalised = classifier.normalise(images)  # absence is zero after normalisation, as of the fill `zero`
            with torch.no_grad(), record(classifier, self.adapter.stages) as activations:
                whole = logits(normalised)
            classifier.engine.count(len(images))
            if settings.labels == "predicted":
                labels = whole.argmax(1)
            low, maps = self.adapter.heatmaps(activations, images.shape[2:])
            if settings.objective == "paper":
                classifier.engine.count(len(images))
                masked = logits(normalised * maps[:, None])
                return lax_loss(masked, labels, low, settings.entropy_weight, settings.temperature)
            # Show is asked of from half of α_min up to 1, the complement of about α_min.
            draws = torch.rand(2, len(images), 1, 1, generator=random, device=random.device).to(maps.device)
            half = settings.alpha_min / 2
            above = soft_threshold(maps, half + (1 - half) * draws[0], settings.width)
            below = soft_threshold(maps, half + draws[1] / 2, settings.width)
            shown = logits(normalised * above[:, None])
            rest = logits(normalised * (1 - below)[:, None])
            classifier.engine.count(2 * len(images))
            return msi_loss(shown, rest, labels, maps, settings.area_weight, settings.rest_weight)
