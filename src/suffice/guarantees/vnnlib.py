"""What `prove` asks, in files for a verifier of one's own: the network as ONNX, the question as VNN-LIB.

The network takes pixels in [0, 1], its normalisation is inside. The question is whether there is an image in the box
that loses the class: `sat` refutes the part, `unsat` proves it.

>>> import torch
>>> box = Box(torch.tensor([[[[0.0, 0.5]]]]), torch.tensor([[[[0.25, 0.5]]]]))
>>> print(property_text(box, torch.tensor([[1.0, -1.0]])))
; X: pixels in [0, 1], (1, 1, 1, 2) row by row; Y: the model's outputs.
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
(assert (>= X_0 0.0))
(assert (<= X_0 0.25))
(assert (>= X_1 0.5))
(assert (<= X_1 0.5))
(assert (<= Y_0 Y_1))
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.guarantees.bounds.layer import Box
from suffice.guarantees.proof import box_around, check_epsilon, decision_forms
from suffice.images import as_image
from suffice.outputs import as_logits, as_tensor


def property_text(box: Box, forms: Tensor) -> str:
    """The question as VNN-LIB: is there an image in the box at which one of the forms is not above zero?

    Args:
        box: one box (1, C, H, W).
        forms: (R, K), each the difference of two outputs, or one output or its opposite.
    """
    lower, upper = (end.double().flatten().tolist() for end in box)
    count = forms.shape[1]
    lines = [f"; X: pixels in [0, 1], {tuple(box.lower.shape)} row by row; Y: the model's outputs."]
    lines += [f"(declare-const X_{i} Real)" for i in range(len(lower))]
    lines += [f"(declare-const Y_{k} Real)" for k in range(count)]
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        lines += [f"(assert (>= X_{i} {_real(low)}))", f"(assert (<= X_{i} {_real(high)}))"]
    lost = [_not_above_zero(form) for form in forms.tolist()]
    if len(lost) == 1:
        lines.append(f"(assert {lost[0]})")
    else:
        lines.append("(assert (or")
        lines += [f"  (and {condition})" for condition in lost]
        lines.append("))")
    return "\n".join(lines)


def _not_above_zero(form: list[float]) -> str:
    own = next((k for k, value in enumerate(form) if value == 1), None)
    other = next((k for k, value in enumerate(form) if value == -1), None)
    if own is None:
        return f"(>= Y_{other} 0.0)"
    return f"(<= Y_{own} {'0.0' if other is None else f'Y_{other}'})"


def _real(value: float) -> str:
    """As a decimal without an exponent, every digit of it."""
    return np.format_float_positional(value, trim="0")


def question_text(
    classifier: Classifier,
    image: Tensor | npt.NDArray[Any],
    mask: Tensor | npt.NDArray[np.bool_],
    *,
    epsilon: float,
    target: int | str | None = None,
) -> str:
    """What `suffice.guarantees.proof.prove` asks of these arguments, as VNN-LIB.

    Raises:
        InputError: as `prove`.
    """
    pixels = classifier.check_images(as_image(classifier, image)[0][None])[0]
    part, logits = as_tensor(mask), classifier.logits(pixels[None])[0]
    chosen = int(logits.argmax()) if target is None else classifier.class_index(target)
    if part.dtype != torch.bool or part.shape != pixels.shape[1:]:
        raise InputError(f"expected a mask as bool {tuple(pixels.shape[1:])}; got {part.dtype} {tuple(part.shape)}")
    outputs = 1 if classifier.known_meaning.outputs == "binary" else len(logits)
    return property_text(
        box_around(pixels, ~part[None], check_epsilon(epsilon)), decision_forms(classifier, chosen, outputs)
    )


class _FromPixels(nn.Module):
    """The network, with the normalisation before it."""

    def __init__(self, classifier: Classifier, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = (
            torch.tensor(values, dtype=torch.float32, device=classifier.device).view(-1, 1, 1)
            for values in (classifier.preprocessing.mean, classifier.preprocessing.std)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Outputs of pixels in [0, 1]."""
        return as_logits(self.network((pixels - self.mean) / self.std))


def network_bytes(classifier: Classifier) -> bytes:
    """The network that takes pixels in [0, 1], as an ONNX file.

    Raises:
        InputError: a black box, a network that cannot be exported, or what exports it is not installed.
    """
    import io
    import warnings

    from suffice.engine import evaluation_mode

    module = classifier.require_module("an export for another verifier")
    size = (1, len(classifier.preprocessing.mean), *classifier.preprocessing.input_size)
    file = io.BytesIO()
    try:
        with classifier.engine.exclusive(), evaluation_mode(module), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own
            program = torch.onnx.export(
                _FromPixels(classifier, module).eval(), (torch.zeros(size, device=classifier.device),),
                input_names=["X"], output_names=["Y"], dynamo=True, verbose=False,
            )  # fmt: skip
            assert program is not None
            program.save(file)  # type: ignore[arg-type]  # a file object is taken as well
    except ImportError as error:
        raise InputError(f"an ONNX file needs what exports it: pip install onnx onnxscript ({error})") from error
    except Exception as error:  # the exporter can raise anything
        raise InputError(f"cannot export {classifier.name} to ONNX: {type(error).__name__}: {error}") from error
    return file.getvalue()
