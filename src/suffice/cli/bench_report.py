"""`suffice bench-report DIR`: the tables and plots of a benchmark, or how two runs of it differ."""

from __future__ import annotations

from typing import Annotated

import typer

from suffice.cli.command import named_folder
from suffice.cli.process import print_any_name, say
from suffice.errors import InputError

_FORMATS = ("markdown", "latex", "csv", "html")


def bench_report(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Results that suffice bench wrote.")],
    format: Annotated[str, typer.Option(help="markdown, latex or csv on stdout, or html, a page in DIR.")] = "markdown",
    against: Annotated[
        str | None, typer.Option(metavar="DIR", help="An earlier run: what is different in this one, by image.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the page and its plots go. [default: DIR]")
    ] = None,
) -> int:
    """Print the tables of a benchmark, or write them with plots as one HTML page."""
    if format not in _FORMATS:
        raise InputError(f"unknown format {format!r}; expected {', '.join(_FORMATS)}")
    if out is not None and format != "html":
        raise InputError(f"expected --out with --format html; got it with {format}, which goes to stdout")
    from dataclasses import replace

    from suffice.benchmark.comparison import compare, comparison_table
    from suffice.benchmark.tables import read_report
    from suffice.report.tables import as_csv, as_latex, as_markdown, changes_as_csv

    print_any_name("utf-8")
    report = read_report(folder)
    before = None if against is None else read_report(against)
    compared = [] if before is None else [comparison_table(before, report)]
    if format == "html":
        from suffice.folders import OutputFolder
        from suffice.naming import Naming
        from suffice.report.benchmark import plots, png, render_benchmark

        place = OutputFolder(folder if out is None else named_folder(out), "bench-report")
        drawn = list(plots(report))
        files: dict[str, str | bytes] = {f"plot-{n}.png": png(plot.figure) for n, plot in enumerate(drawn, 1)}
        place.write(
            files | {"report.html": render_benchmark(report, drawn, folder=Naming(folder)(folder), more=compared)}
        )
        say(f"report: {place.path / 'report.html'}")
        return 0
    if before is not None and format == "csv":
        say(changes_as_csv(compare(before, report)).rstrip("\n"))
        return 0
    if compared:
        report = replace(report, tables=tuple(compared))
    written = {"markdown": as_markdown, "latex": as_latex, "csv": as_csv}[format](report)
    say(written.rstrip("\n"))
    return 0
