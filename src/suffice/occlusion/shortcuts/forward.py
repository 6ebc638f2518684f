"""A forward pass with shortcuts, run again without those that the model turns out not to allow."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from suffice.occlusion.rules.activation import DeactivationSettings
from suffice.occlusion.rules.masks import filled, settle
from suffice.occlusion.shortcuts.activation import Crop, StoredActivation
from suffice.occlusion.shortcuts.crops import windowed
from suffice.occlusion.shortcuts.state import PassState, RunAgainError

_without: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()
"""What a module does not allow (see `PassState`), found out by a first pass that had to be run again."""
_lock = threading.Lock()


def fast_forward(module: nn.Module, inputs: Tensor, masks: Tensor, settings: DeactivationSettings) -> Any:
    """What the module returns, of activations that are stored in part.

    Args:
        module, inputs, masks: as of `suffice.occlusion.deactivation.deactivated_forward`.
        settings: of the pass.
    """
    while True:
        with _lock:
            without = _without.get(module, frozenset())
        try:
            return module(_masked_input(inputs, masks, settings, PassState(without)))
        except RunAgainError as error:
            with _lock:  # another thread may have found out something else
                _without[module] = _without.get(module, frozenset()) | without | {str(error)}


def _masked_input(inputs: Tensor, masks: Tensor, settings: DeactivationSettings, state: PassState) -> StoredActivation:
    """The input with its mask; only a window around what is kept is stored."""
    crops: list[Crop | None] = [None] * 4
    if not settings.some_row_full and settings.fill is None:
        kept = masks.any(0)
        spans = []
        for dim, size in ((1, masks.shape[1]), (0, masks.shape[2])):
            positions = kept.any(dim).nonzero()[:, 0].tolist() or [0]
            spans.append((positions[0], positions[-1] + 1, size))
        longest = max(end - start for start, end, _ in spans) if masks.shape[1] == masks.shape[2] else None
        for dim, (start, end, size) in enumerate(spans):
            first, length = windowed(start, end, size, longest)
            if length < size:
                crops[2 + dim] = Crop(size, first, (start, end), (0, size))
                inputs, masks = inputs.narrow(2 + dim, first, length), masks.narrow(1 + dim, first, length)
    on = masks[:, None]
    # Not a product: what lies under the mask may be NaN or infinite.
    kept_values = filled(inputs, ~on, 0.0)
    return StoredActivation(kept_values, settle(on), settings, state, clean=True, crops=tuple(crops))
