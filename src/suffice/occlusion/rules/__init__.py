"""How a mask passes through one operator, for every operator that vision models use; one module a family."""

from suffice.occlusion.rules import attention, combine, pointwise, reduction, shape, windows
from suffice.occlusion.rules.activation import RULES, Activation, Mask, NoRuleError, Settings, rule

__all__ = [
    "RULES",
    "Activation",
    "Mask",
    "NoRuleError",
    "Settings",
    "attention",
    "combine",
    "pointwise",
    "reduction",
    "rule",
    "shape",
    "windows",
]
