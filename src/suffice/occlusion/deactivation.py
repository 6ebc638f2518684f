"""Activation-Deactivation: a forward pass that switches off what belongs to masked pixels.

Instead of painting over pixels, the activations that stem from them are deactivated on their way through the network
(ConvAD, Algorithm 1 of *Activation-Deactivation: A General Framework for Robust Post-hoc Explainable AI*). The model
is run as it is, with any control flow: its input is an `Activation`, a tensor that carries its mask, and each operator
that the model calls finds its rule in `suffice.occlusion.rules`.
"""

import copy
import dataclasses
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from suffice.errors import InputError
from suffice.occlusion.kinds import MaskedForward, OcclusionKind, OcclusionRequest
from suffice.occlusion.rules import Activation, DeactivationSettings, NoRuleError
from suffice.occlusion.rules.masks import filled, settle
from suffice.occlusion.shortcuts import fast_forward


def deactivated_forward(
    module: nn.Module,
    inputs: Tensor,
    masks: Tensor,
    *,
    threshold: float = 0.0,
    add: Literal["union", "intersection"] = "union",
    pooling: Literal["literal", "renormalised"] = "literal",
    fast: bool = True,
) -> Any:
    """What the module returns for each input when only the positions in its mask are active.

    The module is neither edited nor hooked; where masks are all True the result is that of `module(inputs)` bit for
    bit (Theorem 1). Nothing that lies under a mask can reach the output.

    >>> model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5)).eval()
    >>> image, mask = torch.rand(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.bool)
    >>> mask[:, 2:6, :4] = True
    >>> logits = deactivated_forward(model, image, mask)
    >>> torch.equal(logits, deactivated_forward(model, image.masked_fill(~mask, torch.nan), mask))
    True

    Args:
        module: in eval mode, on the device of the inputs.
        inputs: (N, C, H, W), (N, C, L) or (N, C, D, H, W), normalised as the module expects.
        masks: bool (N, H, W), or of the inputs' other sizes, True = kept.
        threshold: τ in [0, 1): a position stays active if more than this share of what it is computed from is active
            (Definition 4). At 0 only what depends on nothing kept is switched off.
        add: where a residual sum is active: where either operand is (`union`) or where both are (`intersection`).
        pooling: `literal` averages zeros in and lets them compete for the maximum, as in the paper; `renormalised`
            averages and compares what is active. Transformer tokens that are off are always left out.
        fast: whether to leave out of memory what is off, and to compute convolution, norm and activation function in
            one go (`suffice.occlusion.shortcuts`); else every operator is computed as the paper has it, by its rule in
            `suffice.occlusion.rules` alone. The results are the same but for rounding.

    Returns:
        The module's own output, of whatever type, with plain tensors in it.

    Raises:
        InputError: shapes, types or settings are wrong, or the module uses an operator without a rule; the message
            names the operator and the submodule.
    """
    if not 0.0 <= threshold < 1.0:
        raise InputError(f"expected a threshold in [0, 1), got {threshold}")
    if add not in ("union", "intersection"):
        raise InputError(f"expected add to be 'union' or 'intersection', got {add!r}")
    if pooling not in ("literal", "renormalised"):
        raise InputError(f"expected pooling to be 'literal' or 'renormalised', got {pooling!r}")
    return masked_forward(module, inputs, masks, DeactivationSettings(threshold, add, pooling), fast=fast)


def masked_forward(
    module: nn.Module, inputs: Tensor, masks: Tensor, settings: DeactivationSettings, *, fast: bool = True
) -> Any:
    """The same as `deactivated_forward` for any settings of the rules (see there; the settings are not checked)."""
    _check(inputs, masks)
    full = masks.flatten(1).all(1)
    if bool(full.all()):
        return module(inputs)
    settings = settings._replace(some_row_full=bool(full.any()))
    try:
        if fast and inputs.ndim == 4:  # the shortcuts cut out windows of height and width
            return _plain_output(fast_forward(module, inputs, masks, settings))
        on = masks[:, None]
        # First checkpoint of Definition 5. Not a product: what lies under the mask may be NaN or infinite.
        return _plain_output(module(Activation(filled(inputs, ~on, 0.0), settle(on), settings)))
    except NoRuleError as error:
        where = _module_at(error.__traceback__, module)
        raise InputError(
            f"expected operators that have a deactivation rule, got {error} in {where}; "
            "see docs/deactivation.md for how to add a rule"
        ) from error


def _check(inputs: Tensor, masks: Tensor) -> None:
    if not 3 <= inputs.ndim <= 5 or not inputs.is_floating_point():
        raise InputError(
            "expected float inputs (N, C, H, W), or (N, C, L) or (N, C, D, H, W), got "
            f"{inputs.dtype} {tuple(inputs.shape)}"
        )
    expected = (inputs.shape[0], *inputs.shape[2:])
    if masks.dtype != torch.bool or masks.shape != expected:
        raise InputError(f"expected bool masks {expected}, got {masks.dtype} {tuple(masks.shape)}")
    if masks.device != inputs.device:
        raise InputError(f"expected masks on {inputs.device}, got {masks.device}")


def _module_at(traceback: TracebackType | None, root: nn.Module) -> str:
    """The innermost submodule whose forward pass the error came from, read off the stack of the failure."""
    names = {id(m): name for name, m in root.named_modules()}
    innermost = root
    while traceback is not None:
        owner = traceback.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in names:
            innermost = owner
        traceback = traceback.tb_next
    return f"{names[id(innermost)] or 'the model itself'} ({type(innermost).__name__})"


def _plain_output(output: Any) -> Any:
    """The same structure with plain tensors: tuples, lists, mappings, data classes and objects with attributes."""
    if isinstance(output, Activation):
        return output.result()
    if isinstance(output, Tensor) or output is None or isinstance(output, (str, int, float, bool)):
        return output
    if isinstance(output, tuple):
        parts = [_plain_output(part) for part in output]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    if isinstance(output, list):
        return [_plain_output(part) for part in output]
    if isinstance(output, Mapping):
        result = copy.copy(output)
        for key, part in output.items():
            result[key] = _plain_output(part)  # type: ignore[index]
        return result
    if dataclasses.is_dataclass(output) or hasattr(output, "__dict__"):
        result = copy.copy(output)
        for key, part in vars(output).items():
            object.__setattr__(result, key, _plain_output(part))
        return result
    return output


_OPTIONS = {"union": "add", "intersection": "add", "literal": "pooling", "renormalised": "pooling"}


def _forward(request: OcclusionRequest) -> MaskedForward:
    classifier = request.classifier
    classifier.require_module("the occlusion 'deactivate'")
    options = [] if request.value is None else request.value.split(":")
    if unknown := [option for option in options if option not in _OPTIONS]:
        raise InputError(f"expected options of deactivate among {', '.join(_OPTIONS)}; got {unknown}")
    chosen: dict[str, Any] = {_OPTIONS[option]: option for option in options}

    def deactivated(module: Any, images: Tensor, masks: Tensor) -> Any:
        return deactivated_forward(module, classifier.normalise(images), masks, threshold=request.threshold, **chosen)

    return deactivated


DEACTIVATE = OcclusionKind("deactivate", forward=_forward, value="options")
