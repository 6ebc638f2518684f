"""Experiments import one another by name, as when they are run as commands."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))
