"""Tables in the form of Activation-Deactivation: its table 1 follows from its tables F by our rule for it."""

from __future__ import annotations

from typing import Any

import pytest

from suffice.benchmark.config import make_config
from suffice.benchmark.differences import differences_of
from suffice.benchmark.tables import accuracies, tables
from suffice.benchmark.values import ResultGroup, Values
from suffice.errors import InputError
from suffice.report.tables import markdown_table

GAMMAS = (0.9, 0.7, 0.5, 0.3, 0.1, 0.0)
MASKING = ("min", "max", "zero", "mean")

# Tables F1 to F12, in per cent: γ from 0.9 to 0; in the order Min, Max, Zero, Avg, AD. Then the row of table 1.
PUBLISHED = {
    ("ResNet-50", "ImageNet-1k"): (
        (21.84, 16.12, 8.18, 6.11, 7.92, 5.76), (10.97, 8.46, 12.60, 10.56, 3.95, 2.91),
        (20.27, 15.00, 6.86, 5.31, 6.45, 6.97), (13.04, 10.14, 11.79, 9.04, 4.31, 3.54),
        (23.78, 18.34, 15.12, 11.26, 8.02, 7.11), (12.80, 9.89, 2.52, 0.70, 4.06, 4.20),
    ),
    ("ResNet-50", "IN-1k_v2"): (
        (22.64, 17.24, 7.42, 5.67, 6.76, 4.95), (11.23, 7.88, 13.19, 9.81, 3.13, 2.25),
        (22.09, 16.66, 6.17, 4.82, 5.91, 5.73), (13.54, 10.06, 12.73, 9.08, 3.69, 2.87),
        (26.50, 19.15, 14.84, 11.12, 7.45, 6.20), (15.27, 11.28, 1.65, 1.31, 4.32, 3.95),
    ),
    ("ResNet-50", "Caltech-256"): (
        (12.76, 10.73, 5.80, 5.19, 8.12, 5.24), (8.30, 6.33, 9.30, 8.50, 4.53, 4.53),
        (8.77, 7.29, 5.61, 4.89, 5.24, 8.12), (8.08, 6.67, 6.64, 5.76, 4.88, 4.88),
        (19.34, 16.35, 14.28, 12.98, 11.95, 11.95), (11.04, 10.03, 4.98, 4.48, 7.42, 7.42),
    ),
    ("ResNet-50", "PASCAL-VOC"): (
        (5.92, 3.93, 2.56, 2.28, 2.66, 8.54), (4.60, 2.68, 3.31, 2.84, 1.60, 1.60),
        (13.26, 10.45, 2.17, 1.75, 8.54, 2.66), (4.53, 3.11, 9.01, 8.60, 2.17, 2.17),
        (8.35, 5.34, 4.02, 3.23, 2.75, 2.75), (2.43, 1.41, 1.46, 0.96, 0.09, -5.79),
    ),
    ("RegNetY-12GF", "ImageNet-1k"): (
        (10.16, 7.16, 5.68, 2.90, 4.17, 1.83), (9.68, 6.85, 5.89, 4.97, 2.23, 3.33),
        (6.70, 4.78, 3.47, 3.13, 3.93, 2.17), (6.29, 4.33, 3.92, 4.70, 2.54, 3.66),
        (15.92, 12.95, 11.27, 9.89, 8.76, 7.69), (6.23, 6.10, 5.38, 4.93, 6.54, 4.37),
    ),
    ("RegNetY-12GF", "IN-1k_v2"): (
        (3.69, 1.73, 1.94, 1.80, 0.79, 1.20), (3.67, 2.58, 1.38, 1.01, 0.89, 0.68),
        (2.39, 1.54, 1.27, 1.13, 1.45, 0.77), (2.56, 2.44, 2.15, 1.63, 1.35, 1.27),
        (5.65, 4.33, 3.78, 3.27, 2.82, 2.55), (1.98, 1.75, 2.40, 2.26, 1.92, 1.86),
    ),
    ("RegNetY-12GF", "CalTech-256"): (
        (7.39, 6.45, 5.34, 3.90, 5.28, 3.75), (7.87, 6.25, 5.66, 5.40, 3.75, 4.00),
        (6.00, 5.36, 4.27, 3.79, 4.00, 3.55), (6.63, 5.17, 4.69, 4.24, 3.55, 5.28),
        (26.16, 23.18, 20.88, 19.38, 19.33, 19.04), (19.53, 18.00, 16.20, 15.14, 15.78, 13.76),
    ),
    ("RegNetY-12GF", "PASCAL-VOC"): (
        (3.07, 2.18, 1.84, 1.22, 1.00, 1.09), (3.35, 2.52, 1.59, 1.15, 1.09, 1.30),
        (2.52, 1.89, 1.48, 1.21, 1.30, 1.16), (2.86, 1.81, 1.54, 1.51, 1.16, 1.00),
        (17.93, 15.61, 13.92, 12.84, 12.70, 12.70), (14.58, 13.09, 12.33, 11.69, 11.61, 11.40),
    ),
    ("EfficientNet-V2-S", "ImageNet-1k"): (
        (18.17, 12.93, 11.35, 10.51, 9.75, 9.31), (17.27, 13.82, 11.67, 10.80, 9.50, 10.25),
        (18.41, 14.08, 11.85, 10.49, 10.25, 9.28), (18.06, 13.34, 12.46, 11.28, 9.38, 9.66),
        (26.23, 20.51, 18.56, 16.90, 16.28, 16.26), (7.83, 6.42, 6.71, 6.41, 6.03, 6.98),
    ),
    ("EfficientNet-V2-S", "IN-1k_v2"): (
        (16.35, 13.28, 11.36, 10.13, 9.12, 8.97), (16.98, 13.66, 12.28, 10.08, 9.80, 9.36),
        (15.09, 13.70, 11.67, 10.72, 9.49, 9.05), (15.99, 12.35, 10.93, 10.11, 9.14, 9.73),
        (23.69, 18.62, 16.52, 14.97, 13.93, 13.89), (8.60, 4.92, 4.85, 4.24, 4.44, 4.84),
    ),
    ("EfficientNet-V2-S", "CalTech-256"): (
        (17.06, 15.22, 13.76, 11.60, 11.62, 11.27), (17.90, 15.51, 14.04, 12.55, 11.62, 12.89),
        (15.63, 14.15, 13.66, 12.15, 12.36, 11.44), (18.57, 14.79, 13.21, 12.03, 11.47, 11.62),
        (22.69, 20.17, 18.25, 16.64, 24.12, 24.12), (7.06, 6.02, 4.59, 4.49, 11.77, 12.69),
    ),
    ("EfficientNet-V2-S", "PASCAL-VOC"): (
        (7.35, 5.91, 3.48, 2.70, 4.30, 2.81), (6.71, 5.22, 5.29, 4.57, 2.81, 3.09),
        (5.74, 4.25, 3.94, 3.05, 3.09, 2.54), (5.81, 4.32, 3.65, 3.24, 2.54, 4.30),
        (12.70, 10.98, 9.17, 8.36, 8.09, 8.09), (6.96, 6.73, 5.23, 5.31, 5.00, 5.55),
    ),
}  # fmt: skip
# Which masking value the table must have taken for a model and a data set, found below as the only one that fits.
TAKEN = ("max", "max", "max", "min", "max", "max", "mean", "max", "zero", "zero", "zero", "zero")


def content() -> dict[str, Any]:
    return {
        "gammas": sorted(GAMMAS),
        "occlusions": [*MASKING, "deactivate"],
        "target": "predicted",
        "datasets": [{"source": "samples", "label": d} for d in dict.fromkeys(d for _, d in PUBLISHED)],
        "models": [{"label": m} for m in dict.fromkeys(m for m, _ in PUBLISHED)],
        "methods": [{"method": "causal"}],
        "metrics": [{"names": ["area", "robustness_solid"]}],
        "differences": [
            {
                "title": "Table 1", "metric": "area", "of": ["deactivate"], "best": MASKING, "by": "robustness_solid",
                "fixed": True, "published": True,
            }
        ],
    }  # fmt: skip


def values() -> Values:
    """The tables' areas; and a ρ, which the text does not print, whose mean over γ is best for the value taken.

    At γ = 0.5 another value has the best ρ, so that the rule matters.
    """
    found: Values = {}
    for ((model, dataset), rows), taken in zip(PUBLISHED.items(), TAKEN, strict=True):
        other = next(name for name in MASKING if name != taken)
        for occlusion, areas in zip((*MASKING, "deactivate"), rows[:5], strict=True):
            for level, area in zip(GAMMAS, areas, strict=True):
                rho = 0.6 if occlusion == taken else 0.9 if (occlusion, level) == (other, 0.5) else 0.2
                for metric, value in (("area", area / 100), ("robustness_solid", rho)):
                    group = ResultGroup(dataset, model, "causal", occlusion, "gamma", level, metric)
                    found[group] = {"mean of 150 images": value}
    return found


def test_one_masking_value_and_no_other_gives_a_row_of_table_1() -> None:
    for (_, rows), taken in zip(PUBLISHED.items(), TAKEN, strict=True):
        fitting = [
            name
            for name, masked in zip(MASKING, rows[:4], strict=True)
            if all(abs(ad - m - cell) <= 0.0101 for ad, m, cell in zip(rows[4], masked, rows[5], strict=True))
        ]
        assert fitting == [taken]


def test_all_72_cells_of_table_1_follow_from_tables_f() -> None:
    config = make_config(content())
    (table,) = [table for table in tables(values(), config) if table.title == "Table 1"]
    cells = {name: [entry.text for entry in entries] for name, entries in table.rows}
    assert table.columns == ("γ = 0.9", "γ = 0.7", "γ = 0.5", "γ = 0.3", "γ = 0.1", "γ = 0")
    assert list(cells)[:2] == ["ResNet-50 (ImageNet-1k)", "ResNet-50 (IN-1k_v2)"]
    assert len(cells) == 12
    for (model, dataset), rows in PUBLISHED.items():
        found = [float(text.replace("−", "-")) for text in cells[f"{model} ({dataset})"]]
        assert found == pytest.approx(rows[5], abs=0.0101)
    assert "RegNetY-12GF (CalTech-256): mean" in table.note
    assert "| ResNet-50 (PASCAL-VOC) | 2.43 | 1.41 | 1.46 |" in "\n".join(markdown_table(table))


def test_the_best_at_each_level_is_another_table() -> None:
    anew = content()
    anew["differences"][0] |= {"fixed": False}
    found = differences_of(values(), make_config(anew), make_config(anew).differences[0])
    fixed = differences_of(values(), make_config(content()), make_config(content()).differences[0])
    assert len(found) == len(fixed) == 72
    differing = {group.level for group in found if found[group] != fixed[group]}
    assert differing == {0.5}
    with pytest.raises(InputError, match="expected along or fixed"):
        make_config(
            content() | {"differences": [{**anew["differences"][0], "by": None, "along": "area", "fixed": True}]}
        )


def test_accuracy_counts_what_was_left_out_as_misclassified() -> None:
    def row(image: str, status: str, target: int | None, label: int | None, error: str = "") -> dict[str, Any]:
        words = {"model": "ResNet-50", "dataset": "ImageNet-1k", "status": status, "error": error}
        return {"image": image, "target": target, "label": label, **words}

    rows: list[Any] = [
        row("a", "done", 1, 1),
        row("a", "done", 1, 1),
        row("b", "done", 2, 3),
        row("c", "failed", None, 4),
    ]
    rows += [
        row("d", "left out", None, 3, "classified as 2, labelled 3"),
        row("e", "done", 5, 5),
        row("f", "done", 1, None),
    ]
    config = make_config(content() | {"accuracy": "Table E1"})
    (table,) = accuracies(rows, config)
    assert (table.title, table.columns) == ("Table E1", ("ImageNet-1k",))
    assert table.rows[0][1][0].text == "50.00%"  # a and e of a, b, d and e
    assert table.note == "Share of 4 images classified as labelled."
    assert list(accuracies(rows, make_config(content()))) == []
