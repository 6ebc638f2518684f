"""Proofs against an exact solver: what is proved holds, what is refuted is confirmed by the model itself."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds as Limits
from scipy.optimize import LinearConstraint, milp
from torch import Tensor, nn

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.guarantees import Guarantee
from suffice.guarantees.proof import Verifier, prove

sys.path.insert(0, str(Path(__file__).parent))
from small_networks import random_classifier


def small(seed: int) -> Classifier:
    """Few enough ReLUs for an exact solver: a convolution or a linear layer, then linear ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = (
            [nn.Conv2d(1, 2, 2, stride=2), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 5)]
            if seed % 2
            else [nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 5)]
        )
        module = nn.Sequential(*first, nn.ReLU(), nn.Linear(5, 3)).eval()
        for parameter in module.parameters():
            parameter.data *= 2.5
    return Classifier(module, input_size=(4, 4), mean=(0.4,), std=(0.5,), outputs="logits", repeatable=True)


def affine_parts(classifier: Classifier) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases between the ReLUs, as the modules themselves say what they make of zeros and units."""
    shape: tuple[int, ...] = (1, 4, 4)
    part: list[nn.Module] = [nn.Identity()]
    layers = [*classifier.module.double(), nn.ReLU()]  # type: ignore[union-attr, misc]

    def run(x: Tensor, first: bool, layers: list[nn.Module]) -> Tensor:
        x = (x - 0.4) / 0.5 if first else x
        return nn.Sequential(*layers)(x)

    first = True
    for layer in layers:
        if not isinstance(layer, nn.ReLU):
            part.append(layer)
            continue
        zeros = torch.zeros(1, *shape, dtype=torch.float64)
        count = zeros.numel()
        units = torch.eye(count, dtype=torch.float64).view(count, *shape)
        with torch.no_grad():
            bias, rows = run(zeros, first, part), run(units, first, part)
        shape, first, part = tuple(bias.shape[1:]), False, [nn.Identity()]
        yield (rows - bias).flatten(1).T.numpy(), bias.flatten().numpy()
    classifier.module.float()  # type: ignore[union-attr]


def exact_margin(classifier: Classifier, image: Tensor, mask: Tensor, target: int, epsilon: float) -> float:
    """The least margin of a class over the box, by a mixed-integer program over all patterns of ReLUs."""
    radius = np.where(mask.numpy(), 0, epsilon)[None].ravel()
    pixels = image.double().numpy().ravel()
    low, high = np.clip(pixels - radius, 0, 1), np.clip(pixels + radius, 0, 1)
    parts = list(affine_parts(classifier))
    least: list[float] = list(low)
    most: list[float] = list(high)
    whole = [0] * len(low)
    rows: list[tuple[dict[int, float], float, float]] = []
    before = list(range(len(low)))
    for weight, bias in parts[:-1]:
        a, b = np.array([least[i] for i in before]), np.array([most[i] for i in before])
        floor = np.minimum(weight * a, weight * b).sum(1) + bias
        ceiling = np.maximum(weight * a, weight * b).sum(1) + bias
        after = []
        for j in range(len(bias)):
            out, on = len(least), len(least) + 1
            least += [0.0, 0.0]
            most += [max(0.0, ceiling[j]), 1.0]
            whole += [0, 1]
            pre = {i: -weight[j, k] for k, i in enumerate(before)}
            rows.append(({**pre, out: 1.0}, bias[j], np.inf))  # out >= pre
            rows.append(({**pre, out: 1.0, on: -min(0.0, floor[j])}, -np.inf, bias[j] - min(0.0, floor[j])))
            rows.append(({out: 1.0, on: -max(0.0, ceiling[j])}, -np.inf, 0.0))
            after.append(out)
        before = after
    weight, bias = parts[-1]
    matrix = np.zeros((len(rows), len(least)))
    for number, (row, _, _) in enumerate(rows):
        for i, value in row.items():
            matrix[number, i] += value
    limits = LinearConstraint(matrix, [row[1] for row in rows], [row[2] for row in rows])
    best = np.inf
    for other in set(range(len(bias))) - {target}:
        cost = np.zeros(len(least))
        cost[before] = weight[target] - weight[other]
        solved = milp(cost, integrality=whole, bounds=Limits(least, most), constraints=limits)
        assert solved.status == 0
        best = min(best, solved.fun + bias[target] - bias[other])
    return float(best)


def check_against_the_solver(seeds: range) -> Counter[str]:
    """How often each verdict was given, all of them in agreement with the exact margin."""
    verdicts: Counter[str] = Counter()
    for seed in seeds:
        classifier, random = small(seed), torch.Generator().manual_seed(seed)
        image = torch.rand((1, 4, 4), generator=random)
        mask = torch.rand((4, 4), generator=random) < torch.rand((), generator=random)
        epsilon = (0.03, 0.1, 0.3, 1.0)[seed % 4]
        found = prove(classifier, image, mask, epsilon=epsilon, seed=seed)
        target = int(classifier.logits(image[None]).argmax())
        exact = exact_margin(classifier, image, mask, target, epsilon)
        verdicts[found.verdict] += 1
        if found.verdict == "proved":
            assert exact > 0, seed
        if found.verdict == "refuted":
            assert exact < 1e-5, seed
            check_counterexample(classifier, image, mask, target, epsilon, found)
    return verdicts


def check_counterexample(
    classifier: Classifier, image: Tensor, mask: Tensor, target: int, epsilon: float, found: Guarantee
) -> None:
    """In the box, with the part in it, and of another class by the plain model in float32, asked alone."""
    other = found.counterexample
    assert other is not None
    assert other.dtype == torch.float32
    assert torch.equal(other[:, mask], image[:, mask])
    assert float((other.double() - image.double()).abs().max()) <= epsilon
    assert 0 <= float(other.min()) <= float(other.max()) <= 1
    module = classifier.module
    assert isinstance(module, nn.Module)
    with torch.no_grad():
        said = module(classifier.normalise(other[None]))[0]
    assert float(said[target]) <= float(torch.cat([said[:target], said[target + 1 :]]).max())
    assert found.counterexample_class == int(said.argmax())


def test_every_verdict_agrees_with_the_exact_solver() -> None:
    verdicts = check_against_the_solver(range(40))
    assert min(verdicts["proved"], verdicts["refuted"]) >= 15
    assert verdicts["unknown"] <= 6


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 1000, 250))
def test_a_thousand_verdicts_agree_with_the_exact_solver(start: int) -> None:
    check_against_the_solver(range(start, start + 250))


def test_refutations_of_deeper_networks_are_confirmed_and_proofs_withstand_an_attack() -> None:
    verdicts: Counter[str] = Counter()
    for seed in range(25):
        classifier, random = random_classifier(seed), torch.Generator().manual_seed(seed)
        size = (len(classifier.preprocessing.mean), *classifier.preprocessing.input_size)
        image, mask = torch.rand(size, generator=random), torch.rand(size[1:], generator=random) < 0.5
        found = prove(classifier, image, mask, epsilon=0.05, seed=seed)
        target = int(classifier.logits(image[None]).argmax())
        verdicts[found.verdict] += 1
        if found.verdict == "refuted":
            check_counterexample(classifier, image, mask, target, 0.05, found)
    assert verdicts["proved"] >= 5


def linear(weight: list[list[float]], side: int = 2) -> Classifier:
    """Logits that are weighted sums of the pixels."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(side * side, len(weight), bias=False))
    with torch.no_grad():
        module[1].weight.copy_(torch.tensor(weight))
    return Classifier(module, input_size=(side, side), mean=(0.0,), std=(1.0,), outputs="logits", repeatable=True)


def test_a_margin_that_float32_may_lose_is_not_proved() -> None:
    """The class is ahead by less than rounding can take: true of real numbers, not to be promised of the model."""
    classifier, image = linear([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0 - 1e-7]]), torch.ones(1, 2, 2)
    everything = torch.ones(2, 2, dtype=torch.bool)
    assert prove(classifier, image, everything, epsilon=0.1, target=0).verdict in ("unknown", "refuted")
    apart = linear([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0 - 1e-5]])
    assert prove(apart, image, everything, epsilon=0.1, target=0).verdict == "proved"


def test_an_image_of_another_class_refutes_itself() -> None:
    found = prove(
        linear([[1.0, 0, 0, 0], [2.0, 0, 0, 0]]), torch.ones(1, 2, 2), np.ones((2, 2), bool), epsilon=1, target=0
    )
    assert (found.verdict, found.method, found.counterexample_class) == ("refuted", "the image", 1)


@pytest.mark.parametrize("outputs", ["labels", "binary"])
def test_labels_and_a_single_logit_are_decided_at_zero(outputs: str) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2 if outputs == "labels" else 1))
    with torch.no_grad():
        module[1].weight.zero_()
        module[1].bias.fill_(-0.5)
        module[1].weight[-1, 0] = 1.0  # class 1 where the first pixel is above 1/2
    classifier = Classifier(module, input_size=(2, 2), mean=(0.0,), std=(1.0,), outputs=outputs)  # type: ignore[arg-type]
    image, nothing = torch.full((1, 2, 2), 0.8), torch.zeros(2, 2, dtype=torch.bool)
    verdicts = [prove(classifier, image, nothing, epsilon=e, target=1).verdict for e in (0.25, 0.35)]
    assert verdicts == ["proved", "refuted"]


def test_what_cannot_be_asked_is_said() -> None:
    classifier, image, part = linear([[1.0, 0, 0, 0], [0, 0, 0, 0]]), torch.ones(1, 2, 2), torch.ones(2, 2) > 0
    with pytest.raises(InputError, match=r"epsilon in \(0, 1\]"):
        prove(classifier, image, part, epsilon=0)
    with pytest.raises(InputError, match=r"a mask as bool \(2, 2\)"):
        prove(classifier, image, part.float(), epsilon=0.1)
    black_box = Classifier(lambda x: x.mean((2, 3)), input_size=(2, 2), channels=2, outputs="logits")
    with pytest.raises(InputError, match="a proof needs the inside"):
        prove(black_box, torch.ones(2, 2, 2), part, epsilon=0.1)


def test_the_box_holds_every_float32_image_within_epsilon() -> None:
    verifier = Verifier(linear([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]), torch.rand(1, 2, 2), 0, 0.1)
    box = verifier.box(torch.tensor([[[True, False], [True, True]]]))
    assert torch.equal(box.lower[0, 0, 0, 1], verifier.image[0, 0, 1])
    assert torch.equal(box.upper[0, 0, 0, 0], (verifier.image[0, 0, 0] + 0.1).clamp(max=1))
