"""What scoring returns: values and curves of maps, which a notebook shows as tables and figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from suffice.guarantees.interval import CONFIDENCE, at_least
from suffice.metrics.evidence import Curve
from suffice.metrics.metric import Metric
from suffice.metrics.standard_error import Mean, mean_with_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """The metrics of N maps.

    Attributes:
        values: by the name of the metric, float64 (N,); finite.
        curves: `insertion`, `deletion`, the same with `_percent`, `msi_show`, `msi_hide`: as far as they were needed.
        labels: int64 (N,), the classes that were meant; predicted: those that the model gives the whole images.
        confidence: float64 (N,), of the whole image in its label.
        parts: bool (N, H, W), what `area`, `confidence` and ρ are of; None unless they were to be kept.
        saliency: float32 (N, H, W), the normalised maps, in [0, 1]; None unless they were to be kept.
        constant: bool (N,), whether a map ranks nothing.
        notes: of each map what must be known of its scale; empty in most cases.
        forward_passes: images that went through the model.
        seconds: wall time.
        metrics: by name, what the values mean.
        draws: by the name of a metric that is the share of some draws (ρ), how many these are.
    """

    values: dict[str, Tensor]
    curves: dict[str, Curve]
    labels: Tensor
    predicted: Tensor
    confidence: Tensor
    parts: Tensor | None
    saliency: Tensor | None
    constant: Tensor
    forward_passes: int = 0
    seconds: float = 0.0
    metrics: Mapping[str, Metric] = dataclasses.field(default_factory=dict)
    draws: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """One line: how many maps, and the means."""
        means = ", ".join(f"{name} {mean:.3f}" for name, mean in self.means().items())
        return f"<Scores of {len(self.labels)} map{'' if len(self.labels) == 1 else 's'}: {means}>"

    def means(self) -> dict[str, Mean]:
        """The mean of each metric with its standard error."""
        return {name: mean_with_error(values.tolist()) for name, values in self.values.items()}

    def of_map(self, index: int) -> dict[str, float]:
        """The metrics of one map."""
        return {name: float(values[index]) for name, values in self.values.items()}

    def at_least(self, index: int, confidence: float = CONFIDENCE) -> dict[str, float]:
        """What is shown of each share of draws, for one map: its lower bound, one-sided (Clopper-Pearson)."""
        return {
            name: at_least(round(float(self.values[name][index]) * draws), draws, confidence)
            for name, draws in self.draws.items()
        }

    def to_arrow(self) -> Any:
        """A `pyarrow.Table` with a row a map: `label`, `predicted`, `confidence`, the metrics by name, and `note`."""
        import pyarrow as pa

        columns = {"label": self.labels, "predicted": self.predicted, "confidence": self.confidence, **self.values}
        arrays = {name: pa.array(values.numpy()) for name, values in columns.items()}
        return pa.table(arrays | {"note": pa.array(self.notes or [""] * len(self.labels), pa.string())})

    def to_pandas(self) -> Any:
        """The same as a `pandas.DataFrame`; ImportError where there is no pandas."""
        return self.to_arrow().to_pandas()

    def _repr_html_(self) -> str:
        """How a notebook shows it: a table of the means."""
        return ScoresByName({"mean" if len(self.labels) > 1 else "value": self})._repr_html_()

    def _repr_png_(self) -> bytes:
        """Its curves, where no HTML is shown."""
        return ScoresByName({"": self})._repr_png_()

    def plot(self) -> Figure:
        """A matplotlib figure of its curves, means over the maps; of the values where there are none."""
        return ScoresByName({"": self}).plot()

    def only(self, index: int) -> Scores:
        """The scores of one map alone."""
        row = slice(index, index + 1)
        kept = {
            name: getattr(self, name)[row]
            for name in ("labels", "predicted", "confidence", "parts", "saliency", "constant")
        }
        return dataclasses.replace(
            self,
            values={name: values[row] for name, values in self.values.items()},
            curves={name: dataclasses.replace(curve, values=curve.values[row]) for name, curve in self.curves.items()},
            notes=self.notes[row],
            **kept,
        )


class ScoresByName(dict[str, Scores]):
    """Scores of several maps by name, which a notebook shows side by side."""

    def _repr_html_(self) -> str:
        from suffice.report.shown import scores_html

        return scores_html(self)

    def _repr_png_(self) -> bytes:
        from suffice.report.shown import figure_png

        return figure_png(self.plot())

    def plot(self) -> Figure:
        """A matplotlib figure with the curves of all maps; of the values where there are none."""
        from suffice.report.shown import scores_figure

        return scores_figure(self)


class MapScores(dict[str, float]):
    """The metrics of one map by name, which a notebook shows as a table.

    Attributes:
        scores: the same with the curves.
    """

    def __init__(self, scores: Scores) -> None:
        super().__init__(scores.of_map(0))
        self.scores = scores

    def _repr_html_(self) -> str:
        return self.scores._repr_html_()

    def _repr_png_(self) -> bytes:
        return self.scores._repr_png_()

    def plot(self) -> Figure:
        """As of `Scores`."""
        return self.scores.plot()

    def __reduce__(self) -> tuple[type[dict[str, float]], tuple[dict[str, float]]]:
        """A copy, also in another process, is the numbers alone."""
        return dict, (dict(self),)


def joined(done: Sequence[Scores]) -> Scores:
    """The scores of some maps after those of others, of the same metrics."""
    first = done[0]
    return Scores(
        {name: torch.cat([each.values[name] for each in done]) for name in first.values},
        {
            name: dataclasses.replace(curve, values=torch.cat([each.curves[name].values for each in done]))
            for name, curve in first.curves.items()
        },
        torch.cat([each.labels for each in done]),
        torch.cat([each.predicted for each in done]),
        torch.cat([each.confidence for each in done]),
        _all_of([each.parts for each in done]),
        _all_of([each.saliency for each in done]),
        torch.cat([each.constant for each in done]),
        draws=first.draws,
        notes=tuple(note for each in done for note in each.notes),
    )


def _all_of(maps: Sequence[Tensor | None]) -> Tensor | None:
    kept = [each for each in maps if each is not None]
    return torch.cat(kept) if kept else None
