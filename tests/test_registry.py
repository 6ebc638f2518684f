"""Registries: names without imports, objects when they are asked for, errors that say what there is."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from suffice import registry
from suffice.errors import InputError
from suffice.registry import DATASETS, METHODS, METRICS, MODELS, OCCLUSIONS, BuiltIn, Registry

ALL: dict[str, Registry[Any]] = {name: each for name, each in vars(registry).items() if isinstance(each, Registry)}


def numbers(**builtin: str | BuiltIn) -> Registry[float]:
    return Registry("number", "suffice.no_such_group", "builtins:float", {"pi": "math:pi", "e": "math:e", **builtin})


@pytest.mark.parametrize("name", ALL)
def test_every_name_leads_to_its_object(name: str) -> None:
    each = ALL[name]
    assert len(each) == len(list(each)) == len(dict(each)) >= 2
    for key in each:
        assert key in each
        found = each[key]
        assert each.find(key) is each.find(found) is each[key]
        assert getattr(found, "name", key) == key


def test_names_are_in_the_order_in_which_tables_and_help_show_them() -> None:
    assert list(METHODS)[:4] == ["causal", "lime", "lax", "activation-matching"]
    assert (next(iter(METRICS)), list(METRICS)[-1]) == ("insertion", "confidence_drop")
    assert OCCLUSIONS.usages() == [
        *("robust", "deactivate", "layer-masking", "zero", "min", "max", "mean", "blur", "noise"),
        *("colour:NAME", "image:FILE"),
    ]
    assert all(usage.endswith(":NAME") for usage in MODELS.usages())
    assert list(DATASETS)[:2] == ["synthetic-mnist", "mnist"]
    assert all(METHODS.summaries().values())  # which help shows


def test_public_names_are_these_registries() -> None:
    import suffice.datasets
    import suffice.explainers
    import suffice.metrics

    assert suffice.explainers.METHODS is METHODS
    assert suffice.metrics.METRICS is METRICS
    assert suffice.datasets.DATASETS is DATASETS


def test_names_cost_no_import() -> None:
    code = (
        "import sys, suffice.registry as r\n"
        "registries = [each for each in vars(r).values() if isinstance(each, r.Registry)]\n"
        "for each in registries:\n"
        "    assert len(list(each)) == len(each.usages()) == len(each.summaries())\n"
        "    assert 'causal' not in each or each is r.METHODS\n"
        "heavy = {name.partition('.')[0] for name in sys.modules} & {'torch', 'numpy', 'pydantic'}\n"
        "print(len(registries), sorted(heavy), sorted(name for name in sys.modules if name.startswith('suffice')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{len(ALL)} [] ['suffice', 'suffice.errors', 'suffice.registry']\n"


def test_an_object_is_imported_when_it_is_asked_for() -> None:
    broken = numbers(tau="no_such_module:tau")
    assert list(broken) == ["pi", "e", "tau"]
    assert "tau" in broken
    assert broken["pi"] == pytest.approx(3.14159265)
    with pytest.raises(ModuleNotFoundError):
        broken["tau"]


def test_what_there_is_not() -> None:
    found = numbers()
    with pytest.raises(KeyError):
        found["i"]
    assert found.get("i") is None
    with pytest.raises(InputError, match=r"unknown number 'pie' \(did you mean pi\?\); expected pi, e$"):
        found.find("pie")
    with pytest.raises(InputError, match=r"unknown number 'x:1'; expected pi, e$"):
        found.find("x:1")
    for wrong in (None, 5, ["pi"]):
        with pytest.raises(InputError, match=r"expected the name of a number, or a builtins\.float; got \w+$"):
            found.find(wrong)  # type: ignore[arg-type]


def test_a_process_adds_its_own() -> None:
    found = numbers()
    found.add("tau", 6.28)
    assert (list(found), found["tau"], found.find("tau"), "tau" in found) == (["pi", "e", "tau"], 6.28, 6.28, True)
    found.add("tau", 6.283)  # as where a cell of a notebook is run again
    assert found["tau"] == 6.283
    assert found.summaries()["tau"] == ""
    assert found.builtin == ("pi", "e")
    with pytest.raises(InputError, match=r"expected a name for a number that is not taken; got 'pi'"):
        found.add("pi", 3.0)
    with pytest.raises(InputError, match=r"cannot add the number 'two': expected a builtins\.float; got int"):
        found.add("two", 2)


def test_an_object_that_is_called_otherwise_is_not_added() -> None:
    from suffice.explainers import METHODS

    with pytest.raises(InputError, match=r"cannot add the method 'mine': .* it calls itself 'causal'"):
        METHODS.add("mine", METHODS["causal"])


def test_values_after_a_colon_are_shown() -> None:
    found = numbers(root=BuiltIn("math:pi", "of a number", value="NUMBER"))
    assert found.usages() == ["pi", "e", "root:NUMBER"]
    assert found.summaries() == {"pi": "", "e": "", "root": "of a number"}
    with pytest.raises(
        InputError, match=r"unknown number 'roof:2' \(did you mean root\?\); expected pi, e, root:NUMBER"
    ):
        found.find("roof:2")
    assert found.package("pi") is None
