"""The one type of a function that is called while something takes its time."""

from collections.abc import Callable

Progress = Callable[[float], None]
"""Called with the share of the work that is done, in [0, 1]."""
