"""How large a share is, from how many of some draws showed it: for a number of draws that was fixed, and at any time.

>>> f"{at_least(100, 100):.3f}"  # 100 of 100 shows no more than this, at a confidence of 95%
'0.970'
>>> decided(35, 35, 0.9, error=0.05), decided(36, 36, 0.9, error=0.05)  # is the share at least 0.9?
(None, True)
>>> decided(20, 40, 0.9, error=0.05)
False

A test that is looked at after every draw, and stopped as soon as it is decided, errs more often than one with a fixed
number of draws, unless it is made for that. Here it is a bet against the share being p: whoever bets on every draw at
odds that are fair if it is p has, if it is p or less, a chance of at most α of ever having 1/α times what they began
with. The bet is spread over all shares above p by a Beta distribution, so that the capital has a closed form.

Source: Clopper and Pearson 1934 for a fixed number of draws; Waudby-Smith and Ramdas 2024, *Estimating means of bounded
random variables by betting*, and Robbins 1970 (mixtures of likelihood ratios) for any time. Looks at numbers of draws
that grow, each with a share of the error and the Clopper-Pearson bound, need as many draws where the share is 1 and up
to three times as many where it is not: see `docs/guarantees.md`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95

# The Beta distributions by which the bet is spread, of the share of draws that show what is bet on: most of those that
# are certified keep their class nearly always, of those that are refuted nothing is known.
_ABOVE, _BELOW = (1.0, 0.5), (1.0, 1.0)
_STEPS = 50  # of bisection: bounds to 1e-15


def at_least(kept: int, draws: int, confidence: float = CONFIDENCE) -> float:
    """Lower bound of the share, one-sided, for a number of draws that was fixed before.

    Args:
        kept: of the draws, from 0 to `draws`.
        draws: independent of each other, at least 1.
        confidence: in (0, 1), that the share is not below the bound.

    Returns:
        In [0, 1).

    Source: Clopper and Pearson 1934.
    """
    from scipy import special  # only now what takes a while to import

    return float(special.betaincinv(kept, draws - kept + 1, 1 - confidence)) if kept else 0.0


def at_most(kept: int, draws: int, confidence: float = CONFIDENCE) -> float:
    """Upper bound of the share, one-sided; otherwise as `at_least`.

    >>> f"{at_most(0, 100):.3f}"
    '0.030'
    """
    return 1 - at_least(draws - kept, draws, confidence)


def interval(kept: int, draws: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Both bounds at once: the share is between them with this confidence, each side with half of the error.

    >>> [f"{bound:.3f}" for bound in interval(100, 100)]
    ['0.964', '1.000']
    """
    of_each = (1 + confidence) / 2
    return at_least(kept, draws, of_each), at_most(kept, draws, of_each)


def decided(kept: int, draws: int, rho: float, error: float) -> bool | None:
    """Whether the share is at least ρ, as far as the draws decide it; None where they do not.

    May be asked after every draw: that the first answer which is not None is wrong has a probability of at most
    `error`, whatever the share is.

    Args:
        kept: of the draws, from 0 to `draws`.
        draws: so far.
        rho: in (0, 1).
        error: in (0, 1).
    """
    enough = -math.log(error)
    if evidence_above(kept, draws, rho) >= enough:
        return True
    return False if evidence_below(kept, draws, rho) >= enough else None


def draws_to_go(kept: int, draws: int, rho: float, error: float, most: int) -> int:
    """How many further draws it takes, if all of them are kept, until the share is known to be at least ρ.

    Args:
        kept, draws, rho, error: as of `decided`.
        most: no more than this is returned.

    >>> draws_to_go(0, 0, 0.9, 0.05, most=100), draws_to_go(28, 30, 0.9, 0.05, most=100)
    (36, 56)
    """
    more = np.arange(1, most + 1)
    (enough,) = np.nonzero(evidence_above(kept + more, draws + more, rho) >= -math.log(error))
    return int(more[enough[0]]) if len(enough) else most


def bounds(kept: int, draws: int, error: float) -> tuple[float, float]:
    """Bounds of the share that hold whenever the draws were stopped, each with a probability of at least 1 - `error`.

    >>> [round(bound, 3) for bound in bounds(36, 36, 0.05)]
    [0.901, 1.0]
    """
    return _lower(kept, draws, error), 1 - _lower(draws - kept, draws, error, _BELOW)


def evidence_above(
    kept: npt.ArrayLike, draws: npt.ArrayLike, rho: float, prior: tuple[float, float] = _ABOVE
) -> npt.NDArray[np.float64]:
    """Logarithm of the capital of the bet that the share is above ρ: of a mean of likelihood ratios.

    ∫ (p/ρ)^kept ((1 - p)/(1 - ρ))^lost over p in (ρ, 1], by a Beta distribution that is cut off there.

    Args:
        kept, draws: of any shape.
        rho: in (0, 1).
        prior: parameters of the Beta distribution.

    Returns:
        Of that shape; 0 before the first draw.
    """
    from scipy import special

    kept = np.asarray(kept, dtype=np.float64)
    lost = np.asarray(draws, dtype=np.float64) - kept
    with np.errstate(divide="ignore"):  # the logarithm of nothing is as little evidence as there can be
        after = np.log(special.betaincc(prior[0] + kept, prior[1] + lost, rho))
    after = after + special.betaln(prior[0] + kept, prior[1] + lost)
    before = math.log(special.betaincc(*prior, rho)) + special.betaln(*prior)
    evidence: npt.NDArray[np.float64] = after - before - kept * math.log(rho) - lost * math.log1p(-rho)
    return evidence


def evidence_below(kept: npt.ArrayLike, draws: npt.ArrayLike, rho: float) -> npt.NDArray[np.float64]:
    """The same for the bet that the share is below ρ."""
    return evidence_above(np.asarray(draws) - np.asarray(kept), draws, 1 - rho, _BELOW)


def _lower(kept: int, draws: int, error: float, prior: tuple[float, float] = _ABOVE) -> float:
    """The largest share that the bet on a larger one has won against."""
    low, high = 0.0, kept / draws if draws else 0.0
    for _ in range(_STEPS if high else 0):
        middle = (low + high) / 2
        if evidence_above(kept, draws, middle, prior) >= -math.log(error):
            low = middle
        else:
            high = middle
    return low
