"""Why A, not B: the model as if it knew these two classes alone, and what must go so that B wins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.explainers.extraction import fewest, ranked_cells
from suffice.explanation import Explanation
from suffice.outputs import as_logits
from suffice.question import Question
from suffice.web.quick import bits_of
from suffice.web.uploads import Upload


class _OnlyTwo(nn.Module):
    """A model of which only two classes count."""

    def __init__(self, module: nn.Module | Callable[[Tensor], Any], first: int, second: int) -> None:
        super().__init__()
        self.asked, self.two = module, [first, second]

    def forward(self, x: Tensor) -> Tensor:
        return as_logits(self.asked(x))[:, self.two]


def of_two(classifier: Classifier, upload: Upload, target: int | str | None, against: int | str) -> Classifier:
    """The classifier that knows only the target, as its class 0, and the class that it is to beat."""
    if classifier.known_meaning.independent:
        raise InputError("expected a model with one class an image, to ask why A and not B; its labels are independent")
    other = classifier.class_index(against)
    whole = classifier.logits(upload.pixels_for(classifier)[None])[0]
    first = int(whole.argmax()) if target is None else classifier.class_index(target)
    if first == other:
        raise InputError(f"expected two classes, to ask why A and not B; got {classifier.class_name(first)} twice")
    preprocessing = classifier.preprocessing.to_dict()
    return Classifier(
        _OnlyTwo(classifier.module, first, other),
        class_names=[f"{classifier.class_name(index)} ({index})" for index in (first, other)],
        name=f"{classifier.name}, two classes",
        device=classifier.device,
        outputs="logits",
        repeatable=True,
        **preprocessing,
    )


def why(classifier: Classifier, question: Question, found: Explanation) -> dict[str, Any]:
    """What must go so that the other class wins: the fewest cells of the ranking, found by halving."""
    ranking = ranked_cells(found.saliency.numpy().astype(np.float64) + 2.0 * found.mask.numpy(), 16)
    grown = np.logical_or.accumulate(np.stack(ranking))

    def lost(count: int) -> bool:
        answer = question.answers(torch.from_numpy(~grown[count - 1])[None])[0]
        return answer.margin <= 0

    if not lost(len(grown)):
        return {"against": classifier.class_name(1), "must_go": None, "must_go_area": None}
    gone = torch.from_numpy(grown[fewest(0, len(grown), lost) - 1])
    return {
        "against": classifier.class_name(1),
        "must_go": bits_of(gone),
        "must_go_area": float(gone.float().mean()),
    }
