"""How a mask passes through one operator, for every operator that vision models use; one module a family."""

from suffice.occlusion.rules import attention, combine, convolution, pointwise, pooling, reduction, resize, shape
from suffice.occlusion.rules.activation import RULES, Activation, Mask, NoRuleError, Settings, rule

__all__ = [
    "RULES",
    "Activation",
    "Mask",
    "NoRuleError",
    "Settings",
    "attention",
    "combine",
    "convolution",
    "pointwise",
    "pooling",
    "reduction",
    "resize",
    "rule",
    "shape",
]
