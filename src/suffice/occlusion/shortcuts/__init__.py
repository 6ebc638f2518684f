"""The same as the rules say, in less time: what is off is not stored, and what can wait is computed in one go.

`suffice.occlusion.rules` is complete without anything here (`deactivated_forward(..., fast=False)`). With it
activations are `StoredActivation`s, and an operator is first offered to its shortcut, which may decline; then the
activation is stored as a whole and the rule applies. Three things make a pass cheaper:

- what is off everywhere in a batch is not stored, as it is zero: `crops.py`, `windows.py`;
- a convolution waits for the norm and the activation function after it: `fusion.py`;
- once all is on, a residual sum is handed back as a plain tensor: `combine.py`.

The first is exact; the other two are taken on trust, and a pass whose trust fails is run again without: `state.py`.
"""

from suffice.occlusion.shortcuts import attention, combine, convolution, fusion, pointwise, pooling, reduction, shape
from suffice.occlusion.shortcuts.activation import StoredActivation, shortcut
from suffice.occlusion.shortcuts.forward import fast_forward

__all__ = [
    "StoredActivation",
    "attention",
    "combine",
    "convolution",
    "fast_forward",
    "fusion",
    "pointwise",
    "pooling",
    "reduction",
    "shape",
    "shortcut",
]
