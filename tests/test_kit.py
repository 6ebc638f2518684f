"""What surrounds the code: versions and requirements that agree, files that their tools can read, completion.

Hosted CI, the container and the conda recipe cannot be run here; their form and what they have in common is checked.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import suffice

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_there_is_one_version() -> None:
    said = subprocess.run([sys.executable, "-m", "suffice", "--version"], capture_output=True, text=True, check=True)
    recipe = (ROOT / "conda" / "meta.yaml").read_text(encoding="utf-8")
    (conda,) = re.findall(r'set version = "([^"]+)"', recipe)
    versions = {PROJECT["version"], suffice.__version__, said.stdout.split()[1], read("CITATION.cff")["version"], conda}
    assert len(versions) == 1


def test_the_conda_recipe_requires_what_the_package_requires() -> None:
    recipe = (ROOT / "conda" / "meta.yaml").read_text(encoding="utf-8")
    run = recipe.split("  run:\n")[1].split("test:")[0]
    named = dict(re.findall(r"- ([\w-]+) >=([\d.]+)", run))
    assert named.pop("python") == PROJECT["requires-python"].removeprefix(">=")
    other = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
    wanted = dict(each.split(">=") for each in PROJECT["dependencies"])
    assert {other.get(name, name): least for name, least in named.items()} == wanted


def test_citation_has_what_the_format_requires() -> None:
    citation = read("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["license"] == PROJECT["license"]
    assert all("name" in author or "family-names" in author for author in citation["authors"])


@pytest.mark.parametrize("name", ["test", "publish"])
def test_workflows_have_jobs_whose_steps_do_something(name: str) -> None:
    workflow = read(f".github/workflows/{name}.yml")
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "runs-on" in job
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])


def test_hosted_ci_tries_the_least_python_that_is_required() -> None:
    matrix = read(".github/workflows/test.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert f">={matrix['python'][0]}" == PROJECT["requires-python"]


@pytest.mark.parametrize("name", ["wrong_result", "failure"])
def test_issue_forms_have_labelled_fields(name: str) -> None:
    form = read(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert form["name"]
    assert form["description"]
    assert len({field["id"] for field in form["body"]}) == len(form["body"]) >= 3


def test_links_of_llms_txt_are_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "llms.txt").read_text(encoding="utf-8"))
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_the_shell_completes_commands_and_options() -> None:
    def complete(words: str, count: int) -> str:
        asked = {"_SUFFICE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}
        done = subprocess.run(
            [sys.executable, "-m", "suffice"], capture_output=True, text=True, env={**os.environ, **asked}, check=False
        )
        return done.stdout

    assert "explain" in complete("suffice ex", 1).split()
    assert "--keep-confidence" in complete("suffice explain --keep", 2).split()
