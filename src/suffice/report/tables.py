"""A benchmark's tables as Markdown, LaTeX and CSV, the best in bold."""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Sequence
from typing import Any

from suffice.benchmark.comparison import Change
from suffice.benchmark.differences import differences_of
from suffice.benchmark.entries import Table
from suffice.benchmark.tables import Report
from suffice.benchmark.values import ResultGroup, mean_of
from suffice.files import csv_text
from suffice.metrics import Mean


def as_markdown(report: Report) -> str:
    """Every table, with what a reader must know."""
    lines = [f"# {markdown_text(report.config.title)}", ""] if report.config.title else []
    if report.config.note:
        lines += [markdown_text(report.config.note), ""]
    for note in report.notes:
        lines += [f"**{markdown_text(note)}**", ""]
    if report.images:
        lines += [markdown_text(report.images), ""]
    for table in report.tables:
        lines += markdown_table(table)
    return "\n".join(lines).rstrip() + "\n"


def markdown_table(table: Table) -> list[str]:
    """Lines of one table and an empty one."""
    lines = [f"## {markdown_text(table.title)}", ""] if table.title else []
    lines += ["| " + " | ".join(markdown_text(text) for text in (table.corner, *table.columns)) + " |"]
    lines += ["|---" * (1 + len(table.columns)) + "|"]
    for name, entries in table.rows:
        texts = [f"**{markdown_text(entry.text)}**" if entry.best else markdown_text(entry.text) for entry in entries]
        lines.append("| " + " | ".join([markdown_text(name), *texts]) + " |")
    return [*lines, "", markdown_text(table.note), ""]


# Of underscores those that no letter is at both sides of: within a word Markdown leaves them alone.
_MARKDOWN = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")


def markdown_text(text: str) -> str:
    r"""Text that Markdown shows as it is, in one line: no HTML, no links, no images.

    >>> print(markdown_text("fid_minus of <b> ![x](http://…) a|b"))
    fid_minus of &lt;b&gt; !\[x\](http://…) a\|b
    """
    return _MARKDOWN.sub(r"\\\g<0>", html.escape(" ".join(text.split()), quote=False))


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
    r"""Text that LaTeX prints as it is, in one line.

    >>> latex_text("fid_minus ↓ 5% ± 1%")
    'fid\\_minus $\\downarrow$ 5\\% $\\pm$ 1\\%'
    """
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def as_latex(report: Report) -> str:
    """Every table as a `table` with `booktabs` rules."""
    lines = [r"% \usepackage{booktabs}"]
    lines += [f"% {' '.join(note.split())}" for note in [*report.notes, report.images] if note]
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

    A line also says how many of the parts are insufficient or empty, and the mean without these, of other metrics than
    the area without the empty ones. Each line
    says which code made the rows, and when the last of them was made.
    """
    columns = ("mean", "standard_error", "images", "minus", "parts", "insufficient", "empty", "mean_without")
    lines: list[dict[str, Any]] = []
    for group in report.values:
        mean, parts = mean_of(report.values, group), report.parts.get(group)
        assert mean is not None
        line = _cells_of(group) | _cells_of_mean(mean)
        if parts is not None:
            without = "" if parts.without is None else f"{parts.without.value:.6g}"
            line |= {"parts": parts.count, "empty": parts.empty, "mean_without": without}
            line |= {} if parts.insufficient is None else {"insufficient": parts.insufficient}
        lines.append(line)
    for spec in report.config.differences:
        for group, (other, mean) in differences_of(report.values, report.config, spec).items():
            minus = other.occlusion if spec.along is None else f"{other.occlusion} at equal {spec.along}"
            lines.append(_cells_of(group) | _cells_of_mean(mean) | {"minus": minus})
    made = {"code": report.code, "made": report.finished}
    return csv_text([*_GROUP, *columns, *made], (line | made for line in lines))


def changes_as_csv(changes: Sequence[Change]) -> str:
    """How two runs differ, a line for each mean that both have."""
    columns = ("before", "after", "difference", "standard_error", "images", "largest_of_one_image", "verdict")
    lines = []
    for change in changes:
        found = _cells_of_mean(change.difference)
        means = {"before": f"{change.before.value:.6g}", "after": f"{change.after.value:.6g}"}
        verdict = "equal" if change.equal else change.verdict
        largest = {"difference": found.pop("mean"), "largest_of_one_image": f"{change.largest:.6g}", "verdict": verdict}
        lines.append(_cells_of(change.group) | means | found | largest)
    return csv_text([*_GROUP, *columns], lines)


_GROUP = [field.name for field in dataclasses.fields(ResultGroup)]


def _cells_of(group: ResultGroup) -> dict[str, Any]:
    return dataclasses.asdict(group) | {"level": f"{group.level:g}"}


def _cells_of_mean(mean: Mean) -> dict[str, Any]:
    error = "" if mean.standard_error is None else f"{mean.standard_error:.6g}"
    return {"mean": f"{mean.value:.6g}", "standard_error": error, "images": mean.count}
