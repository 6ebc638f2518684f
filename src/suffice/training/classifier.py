"""Training of a base classifier: cross-entropy on the labels of a data set, also of the worst images within ε.

Source: Gowal et al., *On the Effectiveness of Interval Bound Propagation for Training Verifiably Robust Models*.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from suffice.classifier import Classifier
from suffice.datasets import ImageDataset
from suffice.errors import InputError
from suffice.guarantees.bounds import Box, bounds_of, trainable_network
from suffice.outputs import as_logits
from suffice.training.run import TrainingSettings, TrainingTask


class ClassifierTraining(TrainingSettings):
    """Settings of the training of a base model."""

    flip: bool = False  # half of the images mirrored, left to right
    shift: int = Field(0, ge=0, le=1024)  # moved by up to so many pixels in each direction, black behind
    epsilon: float = Field(0.0, ge=0, le=1)  # by which each pixel may change without a change of class, by intervals
    rise: float = Field(0.5, gt=0, le=1)  # share of the steps in which ε and its weight grow up to what they are
    bound_share: float = Field(0.5, ge=0, le=1)  # weight of the loss at the worst logits of intervals, at the end


PRESETS: dict[str, dict[str, Any]] = {
    "default": {"epochs": 30.0, "optimizer": "adamw", "weight_decay": 0.02, "schedule": "cosine"},
    # "A ResNet18 architecture trained for 500 epochs using standard cross-entropy loss"; the rest is not said.
    "paper": {"epochs": 500.0, "optimizer": "adam"},
    # For Synthetic MNIST, whose 60,000 scenes are more than are needed.
    "quick": {
        "epochs": 0.5,
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "weight_decay": 0.02,
        "schedule": "cosine",
        "warmup": 0.1,
    },
    # Intervals, as Gowal et al. train with them: a network whose decisions bounds can prove. For small ones without
    # batch norm, whose statistics change while they are trained.
    "robust": {
        "epochs": 20.0,
        "batch_size": 128,
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "warmup": 0.05,
        "epsilon": 0.15,
    },
}


def varied(images: Tensor, flip: bool, shift: int, random: torch.Generator) -> Tensor:
    """Images (N, C, H, W) mirrored and moved by chance; see `ClassifierTraining`."""
    count, _, height, width = images.shape
    draws = torch.rand(3, count, generator=random, device=random.device)
    if flip:
        images = torch.where((draws[0] < 0.5).to(images.device)[:, None, None, None], images.flip(3), images)
    if shift:
        padded = F.pad(images, (shift,) * 4)
        corners = (draws[1:] * (2 * shift + 1)).long().tolist()
        images = torch.stack(
            [padded[n, :, y : y + height, x : x + width] for n, (y, x) in enumerate(zip(*corners, strict=True))]
        )
    return images


class ClassifierTask(TrainingTask):
    """Trains all of a classifier's parameters.

    Args:
        classifier: an `nn.Module` with as many outputs as the data set has classes.
        dataset: whose labels are learnt.
        settings: of the run.

    Raises:
        InputError: a black box, another number of outputs, or a shift that leaves nothing of an image.
    """

    def __init__(self, classifier: Classifier, dataset: ImageDataset, settings: ClassifierTraining) -> None:
        super().__init__(settings)
        self.chosen = settings
        self.network = classifier.require_module("training")
        self._classifier = classifier
        self._normalise = classifier.normalise
        size = (1, len(classifier.preprocessing.mean), *classifier.preprocessing.input_size)
        if settings.shift >= min(size[2:]):
            raise InputError(f"expected a shift below the side of the images, {min(size[2:])}; got {settings.shift}")
        outputs = classifier.logits(torch.zeros(size)).shape[1]
        if outputs != len(dataset.class_names):
            raise InputError(
                f"expected a model with {len(dataset.class_names)} outputs, one a class of {dataset.name}; "
                f"{classifier.name} has {outputs}"
            )

    def loss(self, images: Tensor, labels: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy, with that of the worst logits within ε, and the shares of labels that are right and proved."""
        images = varied(images, self.chosen.flip, self.chosen.shift, random)
        # With the channels last most networks take less time on a CPU, and none more.
        images = images.contiguous(memory_format=torch.channels_last)
        normalised = self._normalise(images)
        logits = as_logits(self.network(normalised)).float()
        loss = F.cross_entropy(logits, labels)
        terms = {"accuracy": (logits.argmax(1) == labels).float().mean()}
        if self.chosen.epsilon > 0:
            grown = min(1.0, (self.global_step + 1) / max(1.0, self.chosen.rise * self.steps))
            worst = self._worst_logits(images, normalised[:1], grown * self.chosen.epsilon, labels)
            terms["proved"] = (worst.argmax(1) == labels).float().mean()
            share = grown * self.chosen.bound_share
            loss = (1 - share) * loss + share * F.cross_entropy(worst, labels)
        return {"loss": loss, **terms}

    def _worst_logits(self, images: Tensor, one: Tensor, epsilon: float, labels: Tensor) -> Tensor:
        """By intervals, the least logit of the label and the largest of each other class, (N, K)."""
        network = trainable_network(self._classifier, one)
        box = Box((images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1))
        lower, upper = (end.flatten(1) for end in bounds_of(network, box, "interval").boxes[-1])
        return torch.where(F.one_hot(labels, lower.shape[1]) > 0, lower, upper)


def accuracy(classifier: Classifier, dataset: ImageDataset, batch_size: int = 256) -> float:
    """Share of the images whose label is on top, in [0, 1]; an image that cannot be read is left out.

    Raises:
        InputError: no image can be read.
    """
    from suffice.images import to_model

    right = seen = 0
    for start in range(0, len(dataset), batch_size):
        images, labels = [], []
        for index in range(start, min(start + batch_size, len(dataset))):
            try:
                images.append(to_model(dataset.photo(index), classifier))
            except InputError:
                continue
            labels.append(dataset.labels[index])
        if images:
            right += int((classifier.logits(torch.stack(images)).argmax(1) == torch.tensor(labels)).sum())
            seen += len(labels)
    if not seen:
        raise InputError(f"expected images that can be read in {dataset.name}; none of {len(dataset)} can")
    return right / seen
