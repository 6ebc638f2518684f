"""torchmetrics' way of adding up gives the means of `suffice.score_many`, also over processes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

import suffice
from suffice.errors import InputError
from suffice.torchmetrics import MSI, Deletion, ExplanationScore, Insertion, Robustness


@pytest.fixture
def classifier() -> suffice.Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 9, 3)).eval()
    return suffice.Classifier(network, input_size=(8, 8), mean=(0.5,), std=(0.5,), outputs="logits", repeatable=True)


def batches() -> list[tuple[Tensor, Tensor, list[int]]]:
    draw = torch.Generator().manual_seed(2)
    sizes = (3, 1, 4)
    return [
        (torch.rand((n, 1, 8, 8), generator=draw), torch.rand((n, 8, 8), generator=draw), [i % 3 for i in range(n)])
        for n in sizes
    ]


@pytest.mark.parametrize(
    ("kind", "name", "asked"),
    [
        (MSI, "msi", {}),
        (Insertion, "insertion", {"measure": "confidence"}),
        (Deletion, "deletion", {"measure": "confidence"}),
        (Robustness, "robustness_solid", {}),
    ],
)
def test_batches_add_up_to_the_mean_over_all(
    classifier: suffice.Classifier, kind: type[ExplanationScore], name: str, asked: dict[str, str]
) -> None:
    metric = kind(classifier, occlusion="mean", **asked)
    for each in batches():
        metric.update(*each)
    images, maps, labels = zip(*batches(), strict=True)
    expected = suffice.score_many(
        classifier,
        torch.cat(images),
        torch.cat(maps),
        [label for some in labels for label in some],
        [name],
        "mean",
        **asked,
    )
    assert float(metric.compute()) == pytest.approx(float(expected.values[name].mean()), abs=1e-6)
    metric.reset()
    # torchmetrics itself warns as well.
    with (
        pytest.warns(UserWarning, match="before the ``update``"),
        pytest.raises(InputError, match="at least one image"),
    ):
        metric.compute()


def test_two_processes_are_summed_and_not_averaged(classifier: suffice.Classifier) -> None:
    """The reduction that torchmetrics runs over processes, done by hand over two of unequal size."""
    first, second, both = (MSI(classifier) for _ in range(3))
    (one, *others) = batches()
    first.update(*one)
    for each in others:
        second.update(*each)
    for each in batches():
        both.update(*each)
    for state, reduce in first._reductions.items():
        setattr(first, state, reduce(torch.stack([getattr(first, state), getattr(second, state)])))
    first._computed = None
    assert float(first.compute()) == pytest.approx(float(both.compute()), abs=1e-6)


def test_a_collection_takes_them(classifier: suffice.Classifier) -> None:
    collection = MetricCollection({"ins": Insertion(classifier), "del": Deletion(classifier)})
    collection.update(*batches()[0])
    found = collection.compute()
    alone = Insertion(classifier)
    alone.update(*batches()[0])
    assert float(found["ins"]) == pytest.approx(float(alone.compute()))
    assert (Insertion(classifier).higher_is_better, Deletion(classifier).higher_is_better) == (True, False)
    assert copy.deepcopy(alone).metric == "insertion"


def test_what_is_unknown_is_an_error(classifier: suffice.Classifier) -> None:
    with pytest.raises(InputError, match="insertoin"):
        ExplanationScore(classifier, "insertoin")
