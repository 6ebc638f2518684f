"""How far "sufficient" carries: certified by draws, proved by bounds, refuted by a counterexample, or unknown.

| | |
|---|---|
| `verdict.py` | the `Guarantee` that says so |
| `wording.py` | it in a sentence |
| `interval.py` | bounds of a share from draws, for a fixed number of them and at any time |
| `contexts.py` | distributions of contexts that a part is put into |
| `certifying.py` | `certify`: draws until it is decided |
| `attack.py` | a falsifier: projected gradient with restarts |
| `bounds/` | what every image of a box can come to: intervals, CROWN-IBP, CROWN |
| `proof.py` | `prove`: the falsifier, then the bounds |
| `vnnlib.py` | the same question for other tools, as VNN-LIB and ONNX |
"""

from suffice.guarantees.certifying import certify
from suffice.guarantees.verdict import Guarantee, Verdict
from suffice.guarantees.wording import in_words

__all__ = ["Guarantee", "Verdict", "certify", "in_words"]
