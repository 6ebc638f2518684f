"""What a model relies on, on a whole data set, and where it will fail: found, tested, and said with intervals.

| | file |
|---|---|
| what is audited; which images | `settings.py`; `sample.py` |
| their parts, by the benchmark's runner; read | `explaining.py`; `parts.py` |
| where the objects are | `boxes.py` |
| parts that recur, and what they have in common | `recurring.py`, `common.py` |
| what is asked about evidence; tested: does it bring its class, is it a shortcut? | `trials.py`; `evidence.py` |
| clusters of all classes, judged together | `clusters.py` |
| by class; mistakes; fragile decisions; a second model | `classes.py`, `mistakes.py`, `fragile.py`, `comparison.py` |
| rates with intervals | `findings.py` |
| from beginning to end; a condition for a pipeline | `run.py`; `conditions.py` |
"""

from __future__ import annotations

from suffice.audit.run import Audit, run_audit
from suffice.audit.settings import AuditSettings

__all__ = ["Audit", "AuditSettings", "run_audit"]
