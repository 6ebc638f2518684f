"""A benchmark's tables as Markdown, LaTeX and CSV, the best in bold."""

from __future__ import annotations

import csv
import dataclasses
import io

from suffice.benchmark.tables import Report, Table
from suffice.benchmark.values import ResultGroup, mean_of


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
    """Every mean with its standard error, a line each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(f.name for f in dataclasses.fields(ResultGroup)), "mean", "standard_error", "images"])
    for group in report.values:
        mean = mean_of(report.values, group)
        assert mean is not None
        error = "" if mean.standard_error is None else f"{mean.standard_error:.6g}"
        level = f"{group.level:g}"
        names = [group.dataset, group.model, group.method, group.occlusion, group.at, level, group.metric]
        writer.writerow([*names, f"{mean.value:.6g}", error, mean.count])
    return text.getvalue()
