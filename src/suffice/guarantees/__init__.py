"""How far "sufficient" carries: certified by draws, proved by bounds, refuted by a counterexample, or unknown."""

from suffice.guarantees.verdict import Guarantee, Verdict

__all__ = ["Guarantee", "Verdict"]
