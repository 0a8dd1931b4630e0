"""The version that a container reports."""

import importlib.metadata
from pathlib import Path

import dist_info

ROOT = Path(__file__).resolve().parents[3]


def test_the_version_is_found_beside_the_code(tmp_path: Path) -> None:
    dist_info.write(ROOT / "pyproject.toml", tmp_path)
    (found,) = importlib.metadata.distributions(name="headway", path=[str(tmp_path)])
    assert found.version == importlib.metadata.version("headway")
    assert found.metadata["License-Expression"] == "Apache-2.0"
