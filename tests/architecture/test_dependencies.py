"""What our code imports is named by the extra that installs this code: nothing is there only because another brought it."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PARTS = {
    "operator": (
        "operator/headway_operator",
        "operator/headway_planner",
        "operator/headway_cli",
        "engine/headway_rpc",
    ),
    "engine": ("engine/headway_engine", "engine/headway_rpc"),
    "gateway": ("engine/headway_gateway", "engine/headway_rpc"),
}
OF_TORCH = {"triton"}  # torch asks for the one version that fits it
# Modules that an engine does without, the extra that brings each, and the distribution.
OPTIONAL = {"fa3_fwd_interface": ("fa3", "fa3-fwd")}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\s<>=!~;\[]", line, maxsplit=1)[0]) for line in requirements}


def imported(folder: Path) -> set[str]:
    found: set[str] = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                found.add(node.module.partition(".")[0])
    return {name for name in found if name not in sys.stdlib_module_names and not name.startswith("headway_")}


@pytest.mark.parametrize("extra", PARTS)
def test_every_import_is_named_by_its_extra(extra: str) -> None:
    asked = named(PROJECT["dependencies"]) | named(PROJECT["optional-dependencies"][extra])
    owners = packages_distributions()
    modules = set().union(*(imported(ROOT / folder) for folder in PARTS[extra])) - OF_TORCH
    for module in modules & set(OPTIONAL):
        own, distribution = OPTIONAL[module]
        assert distribution in named(PROJECT["optional-dependencies"][own])
    modules -= set(OPTIONAL)
    assert len(modules) > 3, "the sources were found"
    unnamed = {name for name in modules if not {normal(owner) for owner in owners.get(name, ())} & asked}
    assert unnamed == set()
