"""How a mask passes through one operator, for every operator that vision models use; one module a kind of operator.

Each rule is mathematics on whole activations: Algorithm 1 and Definition 4 of *Activation-Deactivation: A General
Framework for Robust Post-hoc Explainable AI*. What computes the same in less time is in `suffice.occlusion.shortcuts`.
"""

from suffice.occlusion.rules import attention, combine, convolution, pointwise, pooling, reduction, resize, shape
from suffice.occlusion.rules.activation import (
    DEACTIVATION_RULES,
    Activation,
    DeactivationSettings,
    Mask,
    deactivation_rule,
)
from suffice.operator_rules import NoRuleError

DEACTIVATION_RULES.refuse("place of the extreme", "what is off would be taken for a value like any other")
DEACTIVATION_RULES.refuse("order", "what is off would be taken for a value like any other")
DEACTIVATION_RULES.refuse("number", "a Python number has no mask")
DEACTIVATION_RULES.refuse("lookup", "choosing positions by what they hold has no meaning for what is off")
DEACTIVATION_RULES.refuse("sampling", "which positions are read is computed, and may depend on what is off")

__all__ = [
    "DEACTIVATION_RULES",
    "Activation",
    "DeactivationSettings",
    "Mask",
    "NoRuleError",
    "attention",
    "combine",
    "convolution",
    "deactivation_rule",
    "pointwise",
    "pooling",
    "reduction",
    "resize",
    "shape",
]
