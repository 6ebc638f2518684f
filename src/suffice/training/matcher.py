"""Training of one U-Net that gives the start of activation matching for any image of a kind, in one pass.

A mask network with a term for area either collapses or keeps everything, and where the balance lies differs from image
to image. So here the area of each image in a step is drawn, log-uniformly from `least_area` to `largest_area`: the mask
is as many of its highest scores, and what is learnt is to make the most of whatever area there is. In use the area is
the least that satisfies the constraints. What has to be explained is the classifier's own choice; no label is needed.

Source: *Minimalist Explanation Generation and Circuit Discovery*, section 3, which trains an encoder on the terms of
section 3.1 for an image; one for many images, and the drawn areas, are ours.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from suffice.classifier import Classifier
from suffice.engine import evaluation_mode, frozen
from suffice.explainers.activation_matching import losses
from suffice.explainers.activation_matching.budget import highest
from suffice.explainers.activation_matching.network import UNet, network_bytes
from suffice.explainers.activation_matching.views import gaussian_noise
from suffice.naming import Naming
from suffice.training.run import TrainingSettings, TrainingTask


class MatcherTraining(TrainingSettings):
    """Settings of the training of a matcher, a network that proposes masks."""

    epochs: float = Field(10.0, gt=0, le=100_000)
    width: int = Field(16, ge=4, le=256, multiple_of=4)  # channels of the finest level
    least_area: float = Field(0.01, gt=0, lt=1)  # share of the pixels
    largest_area: float = Field(0.5, gt=0, le=1)
    keep: float = Field(1.0, ge=0, le=1)  # γ, the share of the confidence that the parts have to keep


PRESETS: dict[str, dict[str, Any]] = {"default": {"schedule": "cosine", "optimizer": "adamw"}}


class MatcherTask(TrainingTask):
    """Trains a matcher; the classifier takes part in every step and is left as it is.

    Args:
        classifier: an `nn.Module`.
        settings: of network, areas and run.

    Raises:
        InputError: a black box.
    """

    def __init__(self, classifier: Classifier, settings: MatcherTraining) -> None:
        super().__init__(settings)
        self.chosen = settings
        module = classifier.require_module("training a matcher")
        shape = classifier.preprocessing
        self.network = UNet(len(shape.mean), min(shape.input_size), settings.width, settings.seed)
        # No attribute that Lightning would take for something to train, move or save.
        self._classifier, self._frozen = classifier, [module]
        classifier.find_out()

    def finished(self) -> bytes:
        """The file of the network as it is now, with how it was trained."""
        about = {
            "model": Naming(self._classifier.name)(self._classifier.name),
            "trained": {**self.chosen.model_dump(), "steps": self.steps_taken},
        }
        return network_bytes(self.network.eval(), about)

    def on_fit_start(self) -> None:
        """Move the classifier to the network's device."""
        self._frozen[0].to(self.device)

    def leave(self) -> None:
        """Move the classifier back to where it was."""
        self._frozen[0].to(self._classifier.device)

    def loss(self, images: Tensor, labels: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """What the parts lack, on black (zero after normalisation) and on noise, at areas that are drawn."""
        classifier, settings, module = self._classifier, self.chosen, self._frozen[0]
        count, pixels = len(images), images[0, 0].numel()
        with frozen(module), evaluation_mode(module):
            normalised = classifier.normalise(images)
            with torch.no_grad():
                whole = classifier.read(module(normalised)).float()
            targets = whole.argmax(1)
            wanted = settings.keep * classifier.confidences(whole).gather(1, targets[:, None])[:, 0]
            demanded = torch.logit(wanted.clamp(1e-6, 1 - 1e-6))
            scores = self.network(normalised)
            low, high = math.log(settings.least_area), math.log(settings.largest_area)
            areas = torch.exp(low + (high - low) * torch.rand(count, generator=random, device=random.device))
            kept = (areas.to(scores.device) * pixels).round().long().clamp(1, pixels)
            inside = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device)
            hard, threshold = highest(scores.detach(), kept, inside)
            spread = scores.detach().flatten(1).std(1, correction=0) + 1e-6
            soft = torch.sigmoid((scores - threshold[:, None, None]) / spread[:, None, None])
            masks = losses.straight_through(soft, hard)[:, None]
            noise = classifier.normalise(gaussian_noise(classifier)(images, random))
            shown = torch.cat([masks * normalised, masks * normalised + (1 - masks) * noise])
            logits = classifier.read(module(shown)).float()
            classifier.engine.count(3 * count)
            of_zero, of_noise = logits.chunk(2)
            zero = F.softplus(-losses.slack(of_zero, targets, demanded, classifier.known_meaning))
            label_only = torch.full_like(demanded, -torch.inf)
            rob = F.softplus(-losses.slack(of_noise, targets, label_only, classifier.known_meaning))
            kept_label = (classifier.margins(of_zero, targets) > 0).float()
        return {
            "loss": (zero + rob).mean(),
            "zero": zero.mean(),
            "noise": rob.mean(),
            "label_kept": kept_label.mean(),
        }
