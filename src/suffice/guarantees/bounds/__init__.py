"""Sound bounds of what a network says of all images in a box.

| | file |
|---|---|
| a classifier as layers | `network.py` |
| boxes, rows that go backward, the interface of a layer | `layer.py` |
| relaxations | `linear.py`, `convolution.py`, `scale.py`, `rectifier.py`, `maximum.py`, `moving.py`, `joining.py` |
| intervals, CROWN-IBP and CROWN | `crown.py` |
| alpha-CROWN | `slopes.py` |
| how far float32 may be off | `rounding.py` |
"""

from suffice.guarantees.bounds.crown import METHODS, Bounds, Method, bounds_of, form_bounds, form_rows, to_image
from suffice.guarantees.bounds.layer import Box
from suffice.guarantees.bounds.network import Network, network_of, trainable_network
from suffice.guarantees.bounds.rounding import float32_error
from suffice.guarantees.bounds.slopes import optimised

__all__ = [
    "METHODS",
    "Bounds",
    "Box",
    "Method",
    "Network",
    "bounds_of",
    "float32_error",
    "form_bounds",
    "form_rows",
    "network_of",
    "optimised",
    "to_image",
    "trainable_network",
]
