"""The interface of a method: settings, and a function from a question to a candidate for an explanation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from suffice.errors import InputError, setting_at_fault
from suffice.inside import sealed
from suffice.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from suffice.classifier import Classifier
    from suffice.explainers.raw_maps import RawMaps
    from suffice.guarantees import Guarantee
    from suffice.question import Question


class MethodSettings(BaseModel):
    """Settings of a method: unknown ones and values out of range are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def always_search(self) -> bool:
        """Whether the method is run also where no part is needed, as the class is given with everything hidden."""
        return False


SettingsOfMethod = TypeVar("SettingsOfMethod", bound=MethodSettings)


def complete_settings(method: str, kind: type[SettingsOfMethod], settings: Mapping[str, Any]) -> SettingsOfMethod:
    """The settings of a method, complete and checked.

    Raises:
        InputError: an option that the method does not know, or a value out of range.
    """
    try:
        return kind(**settings)
    except ValidationError as error:
        option, fault = setting_at_fault(error.errors())
        if error.errors()[0]["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields)
            raise InputError(f"unknown option {option!r} of method {method}; expected {known}") from None
        raise InputError(f"{f'option {option} of ' if option else ''}method {method}: {fault}") from None


class RankingSettings(MethodSettings):
    """Settings of a method that ranks pixels first: how the explanation is extracted from the ranking."""

    cell: int = Field(8, ge=1)  # pixels; side of the cells in which the explanation grows
    prune: int = Field(16, ge=0)  # chunks in the last pruning round; 0 leaves the prefix as it is


class Candidate(NamedTuple):
    """What a method found: a ranking of the pixels, and a mask that may be an explanation.

    Attributes:
        saliency: (H, W), larger = more important.
        mask: bool (H, W), its candidate for an explanation; whether it is sufficient is checked by the caller.
        minimal_block: side in pixels of the blocks none of which can be left out of the mask; None: not shown.
        raw_saliency: (H, W), where `saliency` is a map that was normalised: its values before that.
        settings: those that the method chose by itself.
        notes: what a reader must know before trusting it.
        curves: of a method that learns, by name one value a step.
        guarantee: of a method that shows by itself how far the mask carries.
    """

    saliency: npt.NDArray[np.float64]
    mask: npt.NDArray[np.bool_]
    minimal_block: int | None = None
    raw_saliency: npt.NDArray[np.float64] | None = None
    settings: Mapping[str, Any] = MappingProxyType({})
    notes: tuple[str, ...] = ()
    curves: Mapping[str, Sequence[float]] = MappingProxyType({})
    guarantee: Guarantee | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to find an explanation, and what else has to be known of it.

    Attributes:
        name: as callers and results write it.
        settings: the type of its settings.
        explain: the candidate for what a question asks, by its settings, the seed and the function that is called with
            the share of the work that is done.
        saliency: its saliency maps of many images without an explanation, by classifier, images (N, C, H, W) in
            [0, 1], targets (N,), -1 for the model's own choice, settings and progress; None where it has none.
        own_scale: whether its saliency is in [0, 1] by itself, on a scale that must not be stretched to an image's
            least and greatest value.
        own_contexts: whether what its masks suffice in is not what the question's occlusions show: then they are
            searched for also where nothing shown is enough, and may be insufficient under the occlusions.
        sides: how many sides an input may have for it: 1 of signals, 2 of images, 3 of volumes.
        inside: whether it looks into the network, so that a black box is out of its reach.
        distance: of a method that learns through activations, how far those of a part, bool (H, W), are from the whole
            image's: `Explanation.activation_distance`; None where there are none.
        needs: the settings that it cannot do without, each the name of a file, with the command that writes it.
        fits: raises InputError where settings, such as a file that they name, are not of a classifier; asked also where
            no part is needed. None: they always are.
    """

    name: str
    settings: type[MethodSettings]
    explain: Callable[[Question, Any, int, Progress], Candidate]
    saliency: Callable[[Classifier, Tensor, Tensor, Any, Progress], RawMaps] | None = None
    own_scale: bool = False
    own_contexts: bool = False
    sides: tuple[int, ...] = dataclasses.field(default=(2,), kw_only=True)
    inside: bool = dataclasses.field(default=False, kw_only=True)
    distance: Callable[[Question, Any, Tensor], dict[str, Any] | None] | None = None
    needs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fits: Callable[[Classifier, Any], object] | None = dataclasses.field(default=None, kw_only=True)

    def check_classifier(self, classifier: Classifier) -> None:
        """Raises InputError for one of signals or volumes, or a black box, of which the method can say nothing."""
        if len(classifier.preprocessing.input_size) not in self.sides:
            classifier.preprocessing.height_and_width(f"the method {self.name}")
        if self.inside and classifier.black_box:
            why = sealed(classifier.module)
            raise InputError(
                f"the method {self.name!r} needs the inside of a PyTorch nn.Module; of {classifier.name!r} only the "
                f"outputs can be seen{f' ({why})' if why else ''}, so use causal or lime"
            )
