"""Who may import whom: the import contracts, and what each package must be importable without."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(600)  # whole packages are imported, or read, in a process of their own
ROOT = Path(__file__).parents[2]

# Makes the given packages as absent as if they were not installed, then imports the rest of the command line.
BLOCKER = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

absent, wanted = set(sys.argv[1].split(",")), sys.argv[2:]
sys.meta_path.insert(0, Absent())
for name in wanted:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                if error.name != "triton":  # comes with torch where there is a GPU; the kernels and their executor need it
                    raise
assert not absent & set(sys.modules), absent & set(sys.modules)
"""

WITHOUT = [
    ("headway_operator", "torch,transformers,headway_engine"),
    ("headway_planner", "torch,kopf,kubernetes,grpc,headway_engine"),
    ("headway_rpc", "torch,kopf,kubernetes,headway_engine,headway_operator"),
    ("headway_operator.api", "torch,kopf,kubernetes,grpc"),
    ("headway_operator.core", "torch,kopf,kubernetes,grpc,prometheus_client"),
    ("headway_engine.core", "torch,grpc,transformers,kopf,kubernetes"),
    ("headway_engine", "kopf,kubernetes,pydantic,headway_operator,headway_planner"),
    ("headway_gateway", "torch,kopf,kubernetes,headway_engine,headway_operator,headway_planner"),
]


@pytest.mark.parametrize(("package", "absent"), WITHOUT)
def test_every_module_of_a_package_imports_without(package: str, absent: str) -> None:
    command = [sys.executable, "-c", BLOCKER, absent, package]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=500)
    assert (done.returncode, done.stderr[-2000:]) == (0, "")


@pytest.mark.parametrize("absent", ["torch", "kopf"])
def test_the_command_line_starts_without(absent: str) -> None:
    script = f"import sys; sys.modules[{absent!r}] = None; import headway_cli.main"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr[-2000:]) == (0, "")


def test_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=500)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_a_broken_contract_is_noticed(tmp_path: Path) -> None:
    """The check above would also pass if it looked at nothing."""
    package = tmp_path / "house"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "core.py").write_text("import socket\n")
    (tmp_path / ".importlinter").write_text(
        "[importlinter]\nroot_package = house\ninclude_external_packages = True\n"
        "[importlinter:contract:1]\nname = pure\ntype = forbidden\n"
        "source_modules = house.core\nforbidden_modules = socket\n"
    )
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, timeout=500)
    assert done.returncode == 1
    assert "house.core is not allowed to import socket" in done.stdout
