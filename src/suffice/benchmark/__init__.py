"""Data set x model x method x occlusion x γ x metric, from one TOML file to Parquet, and on to the papers' tables.

| | file |
|---|---|
| what is measured | `config.py`, of `specs.py`; `facts.py`, `images.py` |
| what the labels mean to a model; how many images are used | `classes.py`; `counts.py` |
| what is still to do | `plan.py` |
| one image, one model | `measure.py` |
| its explanations, their metrics, their rows | `explanations.py`, `scores.py`, `rows.py` |
| from beginning to end | `run.py`; engines `local.py`, `on_ray.py` |
| Parquet | `results.py` |
| tables of the results; of differences; two runs | `tables.py`, of `entries.py`; `differences.py`; `comparison.py` |
"""

from __future__ import annotations

from suffice.benchmark.config import BenchmarkConfig, load_config
from suffice.benchmark.results import read_rows, rows_as_arrow
from suffice.benchmark.run import Outcome, RunProgress, run_benchmark

__all__ = ["BenchmarkConfig", "Outcome", "RunProgress", "load_config", "read_rows", "rows_as_arrow", "run_benchmark"]
