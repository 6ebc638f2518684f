"""Explanations as figures and one HTML file, and how results show themselves in notebooks.

| | |
|---|---|
| `parts/` | ES modules and style that reports, the page of `suffice web` and a notebook's cell share |
| `ranking.py` | the ranking and what the model says along it, as the small buffer that these draw from |
| `html.py`, `formats.py` | what all pages are made with; shares, times and the verdict as text |
| `page.py` | the report of explanations; `circuits.py`, `scores.py`, `benchmark.py`, `audit.py`: those of the others |
| `shown.py` | a notebook's cell, and figures of matplotlib |
| `agreement.py` | what several explanations of one image say together |
| `figures.py`, `circuit_figure.py`, `slices.py` | what is drawn |
| `tables.py` | Markdown, LaTeX and CSV |
| `template/` | the pages |
"""
