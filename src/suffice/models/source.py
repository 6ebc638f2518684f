"""What a place that models come from hands back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from suffice.outputs import Outputs


@dataclasses.dataclass(frozen=True)
class Source:
    """A model, and what its source knows about using it.

    Attributes:
        module: the model, on the CPU, with its weights.
        name: what reports call it, and what `load_classifier` takes to load it again.
        preprocessing: fields of `Preprocessing` that the source knows.
        class_names: names in the order of the logits, where the source knows them.
        device, batch_size: what the source would use where the caller has no wish.
        outputs, repeatable: as of `Classifier`, where the source knows; None: found out.
        assumed: a sentence for each thing that the source decided and cannot be sure of, by what it is about.
        weights_sha256: of the file that the weights came from; None where there was none, or several.
    """

    module: nn.Module | Callable[[Tensor], Any]
    name: str
    preprocessing: dict[str, Any] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    device: str | None = None
    batch_size: int | None = None
    outputs: Outputs | None = None
    repeatable: bool | None = None
    assumed: dict[str, str] = dataclasses.field(default_factory=dict)
    weights_sha256: str | None = None
