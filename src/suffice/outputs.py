"""What a model returns, and what it means: logits, probabilities, independent labels, or one logit.

Everything else in this package asks about logits (N, K), so whatever a model returns is brought to them. That loses
nothing: of probabilities p the logits are log p, whose softmax is p again.

| outputs | what a model returns | confidence in a class | it is the decision where |
|---|---|---|---|
| `logits` | (N, K) logits, or log-softmax, of classes that exclude each other | softmax | no other is larger |
| `probabilities` | (N, K), at least 0, with sum 1 | as it is | no other is larger |
| `labels` | (N, K) logits, or sigmoids, of labels that do not exclude each other | sigmoid | it is at least 1/2 |
| `binary` | (N, 1) or (N,): the logit, or sigmoid, of class 1 against class 0 | sigmoid | it is at least 1/2 |

>>> import torch
>>> Meaning("probabilities").logits(torch.tensor([[0.25, 0.75]])).softmax(1)
tensor([[0.2500, 0.7500]])
>>> Meaning("binary").logits(torch.tensor([2.0])), Meaning("binary").confidences(torch.tensor([[-1.0, 1.0]]))
(tensor([[-1.,  1.]]), tensor([[0.1192, 0.8808]]))
>>> Meaning("labels").confidences(torch.tensor([[5.0, 4.0, -9.0]])).round(decimals=3)  # two are present
tensor([[0.9930, 0.9820, 0.0000]])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from suffice.errors import InputError, did_you_mean
from suffice.verdicts import margin

Outputs = Literal["logits", "probabilities", "labels", "binary"]
OUTPUTS: tuple[str, ...] = get_args(Outputs)

_TINY = float(torch.finfo(torch.float32).tiny)  # a probability of 0 has a logarithm that is finite
_SUM = 1e-2  # by which a sum of probabilities may differ from 1: those of a half-precision model do


class Meaning(NamedTuple):
    """What the outputs of a model mean.

    Attributes:
        outputs: see the table above.
        sigmoids: whether `labels` or `binary` outputs are probabilities already.
    """

    outputs: Outputs
    sigmoids: bool = False

    @property
    def independent(self) -> bool:
        """Whether several classes can be the decision at once."""
        return self.outputs == "labels"

    def logits(self, values: Tensor) -> Tensor:
        """Logits (N, K) of what a model returned, through which gradients flow.

        Args:
            values: (N, K), or (N, 1) or (N,) for `binary`.

        Raises:
            InputError: probabilities that are none.
        """
        if self.outputs == "logits":
            return values
        if self.outputs == "probabilities":
            _check_probabilities(values)
            return values.clamp(min=_TINY).log()
        if self.sigmoids:
            if bool(((values < 0) | (values > 1)).any()):
                raise InputError(
                    f"expected outputs in [0, 1], as all were when first asked; got {_range(values)}: say what they "
                    f"are with outputs (--outputs {', '.join(OUTPUTS)})"
                )
            bounded = values.clamp(_TINY, 1 - torch.finfo(torch.float32).eps / 2)
            values = bounded.log() - torch.log1p(-bounded)
        if self.outputs == "labels":
            return values
        if values.numel() != len(values):
            raise InputError(f"expected one output a row for outputs=binary; got {tuple(values.shape)}")
        half = values.reshape(len(values), 1) / 2  # on both sides, so that either class has a gradient
        return torch.cat([-half, half], 1)

    def confidences(self, logits: Tensor) -> Tensor:
        """Confidence in each class, in [0, 1], of logits (…, K): softmax, or sigmoid of labels."""
        return logits.sigmoid() if self.independent else logits.softmax(-1)

    def log_confidences(self, logits: Tensor) -> Tensor:
        """The logarithm of `confidences`, without the rounding of a confidence near 0."""
        if self.independent:
            return torch.nn.functional.logsigmoid(logits)
        return logits - logits.logsumexp(-1, keepdim=True)

    def margins(self, logits: Tensor, target: int | Tensor) -> Tensor:
        """By how much a class is the decision, in logits, (…); above 0 it is, below 0 it is not.

        Of classes that exclude each other that is `suffice.verdicts.margin`; of a label it is its own logit, where a
        probability of just 1/2 counts as present.

        Args:
            logits: (…, K); gradients flow through.
            target: the class, or int64 (…), one for each row.
        """
        if not self.independent:
            return margin(logits, target)
        own = logit_of(logits, target)
        return torch.where(own == 0, own + _TINY, own)

    def log_odds(self, logits: Tensor, target: int | Tensor) -> Tensor:
        """log p/(1 - p) of the confidence p in a class, (…), of logits (…, K); gradients flow through."""
        own = logit_of(logits, target)
        if self.independent:
            return own
        classes = torch.as_tensor(target, device=logits.device).expand(logits.shape[:-1])[..., None]
        return own - logits.scatter(-1, classes, -torch.inf).logsumexp(-1)


def logit_of(logits: Tensor, target: int | Tensor) -> Tensor:
    """The logits of one class, or of one class a row: (…) of (…, K)."""
    classes = torch.as_tensor(target, device=logits.device).expand(logits.shape[:-1])[..., None]
    return logits.gather(-1, classes)[..., 0]


def check_outputs(outputs: str) -> Outputs:
    """A name of what outputs mean, as it is; raises InputError for an unknown one."""
    if outputs not in OUTPUTS:
        raise InputError(
            f"expected outputs as one of {', '.join(OUTPUTS)}; got {outputs!r}{did_you_mean(outputs, OUTPUTS)}"
        )
    return outputs  # type: ignore[return-value]


def are_probabilities(values: Tensor) -> bool:
    """Whether all rows (N, K) are at least 0 and have sum 1.

    >>> are_probabilities(torch.tensor([[0.2, 0.8], [1.0, 0.0]])), are_probabilities(torch.tensor([[-0.2, 1.2]]))
    (True, False)
    """
    return bool((values >= 0).all()) and bool(((values.sum(-1) - 1).abs() <= _SUM).all())


def are_sigmoids(values: Tensor) -> bool:
    """Whether all values lie in [0, 1]."""
    return bool(((values >= 0) & (values <= 1)).all())


def shows_logits(values: Tensor) -> bool:
    """Whether outputs (N, K) of some inputs can be nothing but logits: several, of which one lies outside of [0, 1]."""
    return values.ndim == 2 and values.shape[1] > 1 and not are_sigmoids(values)


def found_out(values: Tensor, given: Outputs | None) -> tuple[Meaning, str]:
    """What a model's outputs mean, as far as its answers to several inputs show it, and how that is known, in words.

    Args:
        values: (N, K) or (N,), what the model returned for N different inputs.
        given: by the caller; then only whether `labels` and `binary` are sigmoids is found out.

    Returns:
        The meaning; and a sentence on what is assumed, empty where nothing is.
    """
    single = values.ndim == 1 or values.shape[1] == 1
    in_unit = are_sigmoids(values)
    if given in ("logits", "probabilities"):
        return Meaning(given), ""
    if given is not None:
        scale = "each lies in [0, 1], so they are taken to be sigmoids" if in_unit else ""
        return Meaning(given, sigmoids=in_unit), f"outputs are {given}; {scale}" if scale else ""
    if single:
        kind = "a probability, as it lies in [0, 1]" if in_unit else "a logit"
        return Meaning("binary", sigmoids=in_unit), f"the one output is taken to be {kind}, of class 1 (--outputs)"
    if are_probabilities(values):
        return Meaning("probabilities"), (
            "outputs are taken to be probabilities, as they are at least 0 and have sum 1 (--outputs)"
        )
    if in_unit:
        return Meaning("logits"), (
            "outputs are taken to be logits, though all lie in [0, 1]; if they are independent labels, say so "
            "(--outputs labels)"
        )
    return Meaning("logits"), "outputs are taken to be logits of classes that exclude each other (--outputs)"


def _check_probabilities(values: Tensor) -> None:
    if not are_probabilities(values.detach()):
        sums = values.detach().sum(-1)
        raise InputError(
            f"expected probabilities, at least 0 and with sum 1; got {_range(values)} and sums from "
            f"{float(sums.min()):g} to {float(sums.max()):g}: say what the outputs are with outputs (--outputs)"
        )


def _range(values: Tensor) -> str:
    return f"values from {float(values.detach().min()):g} to {float(values.detach().max()):g}"


def as_logits(output: Any) -> Tensor:
    """The outputs in whatever a model returns: tensor, array, tuple, mapping, or an object with `.logits`.

    Dimensions of 1 after (N, K), as a network leaves them that ends in a global pooling, hold nothing and are left out.

    Raises:
        InputError: something else, or complex numbers.
    """
    if isinstance(output, Tensor):
        real_numbers(output, "logits")
        return output.flatten(1) if output.ndim > 2 and output.shape[2:].numel() == 1 else output
    if isinstance(output, np.ndarray) and output.dtype.kind in "fiu":
        return as_logits(as_tensor(output))
    if hasattr(output, "logits"):
        return as_logits(output.logits)
    if isinstance(output, Mapping) and "logits" in output:
        return as_logits(output["logits"])
    if isinstance(output, Mapping) and len(output) == 1:
        return as_logits(next(iter(output.values())))
    if isinstance(output, (tuple, list)) and output:
        return as_logits(output[0])
    raise InputError(
        "expected logits as a tensor, an array, the first item of a tuple, a mapping's 'logits' or an object's "
        f".logits; got {type(output).__name__}"
        + (f" with keys {sorted(map(str, output))[:6]}" if isinstance(output, Mapping) else "")
        + (f" of {output.dtype}" if isinstance(output, np.ndarray) else "")
    )


def passed_over(output: Any) -> str:
    """What is said where `as_logits` takes the first of several outputs; empty elsewhere.

    >>> passed_over((torch.ones(1, 2), torch.ones(1, 3)))
    'of the 2 outputs that the model returns the first is taken: nothing says otherwise'
    """
    if hasattr(output, "logits") or not isinstance(output, (tuple, list)) or len(output) < 2:
        return ""
    return f"of the {len(output)} outputs that the model returns the first is taken: nothing says otherwise"


def as_tensor(values: Any) -> Tensor:
    """A tensor as it is, or an array of any layout as a tensor, which shares its memory wherever torch can.

    Raises:
        InputError: neither of them, nor nested lists of numbers.
    """
    if isinstance(values, Tensor):
        return values
    try:
        array = np.asarray(values)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if array.flags.writeable and min(array.strides, default=0) >= 0:
            return torch.from_numpy(array)
        # torch knows no others; what is broadcast stays so, as a copy may take more memory than there is.
        once = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)
        return torch.from_numpy(array[once].copy()).expand(array.shape)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected a tensor or an array of numbers; got {type(values).__name__}: {error}") from error


def real_numbers(tensor: Tensor, what: str) -> None:
    """Raise InputError for complex numbers, of which torch would drop a half on the way to float32."""
    if tensor.dtype.is_complex:
        raise InputError(f"expected {what} of real numbers; got {str(tensor.dtype).removeprefix('torch.')}")
