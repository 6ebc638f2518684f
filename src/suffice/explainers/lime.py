"""LIME: a linear model of the classifier around one image, over superpixels that are there or not.

>>> import torch, suffice
>>> class Corner(torch.nn.Module):  # class 1 where the top left corner is bright
...     def forward(self, x):
...         return torch.stack([torch.full((len(x),), 0.5), x[:, :, :8, :8].mean((1, 2, 3))], 1) * 20
>>> classifier = suffice.Classifier(Corner(), input_size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))
>>> image = torch.full((3, 32, 32), 0.2)
>>> image[:, :8, :8] = 1.0
>>> explanation = suffice.explain(classifier, image, method="lime", occlusion="min", superpixels="slic", segments=16)
>>> explanation.sufficient, int(explanation.mask.sum()), bool(explanation.mask[:8, :8].all())  # the corner alone
(True, 64, True)

The image is cut into superpixels. Random subsets of them are shown to the model, and a ridge regression predicts the
target's probability from which superpixels are there; a sample counts for less, the more of the image it hides. The
saliency of a pixel is the coefficient of its superpixel: by how much its presence raises the probability.

Sampling, distance, kernel and regression are those of the authors' package `lime`, with its defaults. What differs:

- Absence is shown by any occlusion, and under several of them the regression is on the least probability.
- Every superpixel takes part in the regression. Algorithm 1 selects K of them by lasso, for a person to read; the
  package selects none by default for an image (its `num_features` is 100,000). Here γ decides how many are shown:
  superpixels are added down the ranking until the class holds, and what turns out not to be needed is left out.
- Superpixels have the same size relative to the image at every resolution (see `superpixels`).
- The seed decides the samples alone; the superpixels are a function of the image.

The probabilities are those of `Question.answers`, whose last bits move with the size of the batches and, with
`bfloat16`, more than that: the saliency does so too (about 1e-6 in float32).

Source: Ribeiro, Singh and Guestrin 2016, *"Why Should I Trust You?" Explaining the Predictions of Any Classifier*,
equations 1 and 2, section 3.4 and algorithm 1.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from suffice.explainers.extraction import Mask, pruned, smallest_prefix
from suffice.explainers.method import Candidate, Method, MethodSettings
from suffice.progress import Progress
from suffice.question import Question

# Side in pixels at which quickshift's `kernel_size` is meant: the input of most ImageNet models.
_SIDE = 224
# Samples in one batch where the classifier does not say: progress is reported between batches.
_AT_ONCE = 32


class LimeSettings(MethodSettings):
    """Settings of LIME, by the names of the packages `lime` and scikit-image where they have them."""

    samples: int = Field(200, ge=1, le=10_000)  # random subsets of superpixels, the whole image among them
    superpixels: Literal["quickshift", "slic"] = "quickshift"
    kernel_size: float = Field(4.0, ge=1, le=32)  # quickshift: pixels at a shorter side of 224; larger = fewer
    max_dist: float = Field(200.0, gt=0, le=1e6)  # quickshift: distance up to which pixels are joined; larger = fewer
    ratio: float = Field(0.2, ge=0, le=1)  # quickshift: weight of colour against place
    segments: int = Field(50, ge=1, le=10_000)  # slic: about so many superpixels
    compactness: float = Field(10.0, ge=1e-3, le=1e6)  # slic: weight of place against colour; larger = squarer
    kernel_width: float = Field(0.25, ge=0.01, le=1000)  # σ of the weights; larger = samples count more equally
    ridge: float = Field(1.0, ge=1e-6, le=1e6)  # penalty on the squared coefficients
    prune: int = Field(64, ge=0)  # chunks in the last pruning round; 0 leaves the prefix as it is


def explain(question: Question, settings: LimeSettings, seed: int, progress: Progress) -> Candidate:
    """The LIME explanation of what `question` asks.

    Args:
        question: image, target, occlusions and γ.
        settings: of superpixels, samples and regression.
        seed: of the samples.
        progress: called with the share of the work that is done.
    """
    labels = superpixels(question.image, settings)
    count = int(labels.max()) + 1
    progress(0.1)
    presence = samples(count, settings.samples, np.random.default_rng([seed]))
    # Asked in full batches, so that progress can be reported between them; then all are known.
    distinct, batch = np.unique(presence, axis=0), question.classifier.batch_size or _AT_ONCE
    for start in range(0, len(distinct), batch):
        question.answers(torch.from_numpy(distinct[start : start + batch][:, labels]))
        progress(0.1 + 0.7 * min(1.0, (start + batch) / len(distinct)))
    answers = question.answers(torch.from_numpy(presence[:, labels]))
    coefficients = ridge_coefficients(
        presence,
        np.array([answer.confidence for answer in answers]),
        proximity(presence, settings.kernel_width),
        settings.ridge,
    )
    saliency = coefficients[labels]
    ranking: list[Mask] = [labels == index for index in np.argsort(-coefficients, kind="stable")]
    needed = smallest_prefix(question, ranking)
    progress(0.9)
    if needed is None:
        return Candidate(saliency, np.ones(labels.shape, dtype=bool))
    return Candidate(saliency, pruned(question, np.logical_or.reduce(ranking[:needed]), ranking, settings.prune))


def superpixels(image: Tensor, settings: LimeSettings) -> npt.NDArray[np.intp]:
    """The superpixel that each pixel belongs to: (H, W), numbered from 0 without gaps.

    Args:
        image: (C, H, W) in [0, 1]; three channels are taken as red, green and blue, of others the mean is, as grey.
        settings: the algorithm and its parameters.

    quickshift knows only distances in pixels, so it would find some 40 superpixels in an image of 224 x 224, one in
    an icon and thousands in a large image, for which it takes minutes. Here `kernel_size` shrinks with the image below
    a shorter side of 224 pixels; above, a smaller copy is cut up.
    """
    from skimage.segmentation import quickshift, slic

    height, width = image.shape[1:]
    if len(image) != 3:
        image = image.mean(0).expand(3, -1, -1)
    if settings.superpixels == "slic":
        found = slic(_rows_of_colours(image), settings.segments, settings.compactness, start_label=0, channel_axis=-1)
    else:
        scale = min(height, width) / _SIDE
        if scale > 1:
            image = F.adaptive_avg_pool2d(image, (round(height / scale), round(width / scale)))
        small = quickshift(
            _rows_of_colours(image),
            ratio=settings.ratio,
            kernel_size=max(1.0, settings.kernel_size * min(1.0, scale)),
            max_dist=settings.max_dist,
            channel_axis=-1,
        )
        rows = np.arange(height) * small.shape[0] // height
        columns = np.arange(width) * small.shape[1] // width
        found = small[rows[:, None], columns[None, :]]
    numbered = np.unique(found, return_inverse=True)[1]
    return numbered.reshape(height, width)


def samples(superpixels: int, count: int, random: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which superpixels each sample shows: bool (count, superpixels), each with probability 1/2; first all of them.

    Source: section 3.3, "Sampling for Local Exploration"; the package `lime` draws like this.
    """
    presence = random.integers(0, 2, (count, superpixels), dtype=np.int8).astype(bool)
    presence[0] = True
    return presence


def proximity(presence: npt.NDArray[np.bool_], kernel_width: float) -> npt.NDArray[np.float64]:
    """Weight of each sample, (N,) in (0, 1]: exp(-D²/2σ²), D the cosine distance to the sample with everything.

    With k of n superpixels shown the cosine is k/√(kn), so D = 1 - √(k/n). The package `lime` takes the root of the
    paper's exp(-D²/σ²), which is what the 2 stands for; its width of 0.25 means this.

    >>> proximity(np.array([[True, True], [True, False], [False, False]]), 0.25).round(4).tolist()
    [1.0, 0.5034, 0.0003]

    Source: section 3.4.
    """
    distance = 1 - np.sqrt(presence.mean(1))
    return np.asarray(np.exp(-((distance / kernel_width) ** 2) / 2), dtype=np.float64)


def ridge_coefficients(
    presence: npt.NDArray[np.bool_],
    confidence: npt.NDArray[np.float64],
    weight: npt.NDArray[np.float64],
    ridge: float,
) -> npt.NDArray[np.float64]:
    """Coefficients w, (S,), that minimise Σ weight (confidence - intercept - w · presence)² + ridge |w|².

    Args:
        presence: bool (N, S), the superpixels of each sample.
        confidence: (N,), the target's probability for each sample.
        weight: (N,), at least 0.
        ridge: above 0, so that there is one answer also where samples are fewer than superpixels, or all equal.

    Source: equation 2 with squared loss, with a ridge penalty as in the package `lime` in place of K-lasso.
    """
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=ridge, fit_intercept=True).fit(presence.astype(np.float64), confidence, sample_weight=weight)
    return np.asarray(model.coef_, dtype=np.float64)


def _rows_of_colours(image: Tensor) -> npt.NDArray[np.float64]:
    """(H, W, C) as scikit-image wants it."""
    return image.permute(1, 2, 0).to(torch.float64).numpy()


METHOD = Method("lime", LimeSettings, explain)
