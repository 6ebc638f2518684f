"""A benchmark's tables as Markdown, LaTeX and CSV, the best in bold."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence

from suffice.benchmark.comparison import Change
from suffice.benchmark.tables import Report, Table, differences_of
from suffice.benchmark.values import ResultGroup, mean_of
from suffice.metrics import Mean


def as_markdown(report: Report) -> str:
    """Every table, with what a reader must know."""
    lines = [f"# {report.config.title}", ""] if report.config.title else []
    if report.config.note:
        lines += [report.config.note, ""]
    for note in report.notes:
        lines += [f"**{note}**", ""]
    if report.images:
        lines += [report.images, ""]
    for table in report.tables:
        lines += markdown_table(table)
    return "\n".join(lines).rstrip() + "\n"


def markdown_table(table: Table) -> list[str]:
    """Lines of one table and an empty one."""
    lines = [f"## {table.title}", ""] if table.title else []
    lines += ["| " + " | ".join(_cell(text) for text in (table.corner, *table.columns)) + " |"]
    lines += ["|---" * (1 + len(table.columns)) + "|"]
    for name, entries in table.rows:
        texts = [f"**{entry.text}**" if entry.best else entry.text for entry in entries]
        lines.append("| " + " | ".join(_cell(text) for text in (name, *texts)) + " |")
    return [*lines, "", table.note, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "γ": r"$\gamma$",
    "ρ": r"$\rho$",
    "τ": r"$\tau$",
    "α": r"$\alpha$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "×": r"$\times$",
    "<": "$<$",
    ">": "$>$",
}


def latex_text(text: str) -> str:
    r"""Text that LaTeX prints as it is.

    >>> latex_text("fid_minus ↓ 5% ± 1%")
    'fid\\_minus $\\downarrow$ 5\\% $\\pm$ 1\\%'
    """
    return "".join(_LATEX.get(character, character) for character in text)


def as_latex(report: Report) -> str:
    """Every table as a `table` with `booktabs` rules."""
    lines = [r"% \usepackage{booktabs}"]
    lines += [f"% {note}" for note in [*report.notes, report.images] if note]
    for table in report.tables:
        lines += ["", r"\begin{table}", r"\centering"]
        lines += [
            rf"\caption{{{latex_text(' '.join(filter(None, [table.title + '.' if table.title else '', table.note])))}}}"
        ]
        lines += [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule"]
        lines += [" & ".join(latex_text(text) for text in (table.corner, *table.columns)) + r" \\", r"\midrule"]
        for name, entries in table.rows:
            texts = [rf"\textbf{{{latex_text(e.text)}}}" if e.best else latex_text(e.text) for e in entries]
            lines.append(" & ".join([latex_text(name), *texts]) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def as_csv(report: Report) -> str:
    """Every mean with its standard error, a line each; then the differences, whose line says what is taken off.

    Of areas a line also says how many of the parts are insufficient or empty, and the mean without these.
    """
    heads = ("mean", "standard_error", "images", "minus", "parts", "insufficient", "empty", "mean_without")
    lines = []
    for group in report.values:
        mean, parts = mean_of(report.values, group), report.parts.get(group)
        assert mean is not None
        of_parts = ["", "", "", ""]
        if parts is not None:
            known = "" if parts.insufficient is None else str(parts.insufficient)
            without = "" if parts.without is None else f"{parts.without.value:.6g}"
            of_parts = [str(parts.count), known, str(parts.empty), without]
        lines.append([*_group_cells(group), *_mean_cells(mean), "", *of_parts])
    for spec in report.config.differences:
        for group, (other, mean) in differences_of(report.values, report.config, spec).items():
            minus = other.occlusion if spec.along is None else f"{other.occlusion} at equal {spec.along}"
            lines.append([*_group_cells(group), *_mean_cells(mean), minus, "", "", "", ""])
    return _csv([*_GROUP, *heads], lines)


def changes_as_csv(changes: Sequence[Change]) -> str:
    """How two runs differ, a line for each mean that both have."""
    heads = ("before", "after", "difference", "standard_error", "images", "largest_of_one_image", "verdict")
    lines = []
    for change in changes:
        difference, error, count = _mean_cells(change.difference)
        means = [f"{mean.value:.6g}" for mean in (change.before, change.after)]
        verdict = "equal" if change.equal else change.verdict
        lines.append([*_group_cells(change.group), *means, difference, error, count, f"{change.largest:.6g}", verdict])
    return _csv([*_GROUP, *heads], lines)


_GROUP = [field.name for field in dataclasses.fields(ResultGroup)]


def _group_cells(group: ResultGroup) -> list[str]:
    return [group.dataset, group.model, group.method, group.occlusion, group.at, f"{group.level:g}", group.metric]


def _mean_cells(mean: Mean) -> list[str]:
    error = "" if mean.standard_error is None else f"{mean.standard_error:.6g}"
    return [f"{mean.value:.6g}", error, str(mean.count)]


def _csv(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(lines)
    return text.getvalue()
