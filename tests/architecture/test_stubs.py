"""The committed gRPC stubs are what the proto file generates."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTO = "headway_rpc/engine.proto"
STUBS = ("engine_pb2.py", "engine_pb2.pyi", "engine_pb2_grpc.py", "engine_pb2_grpc.pyi")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stubs")
    outputs = [f"--{kind}={out}" for kind in ("python_out", "mypy_out", "grpc_python_out", "mypy_grpc_out")]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "engine"), *outputs, PROTO],
        check=True,
        capture_output=True,
        cwd=ROOT / "engine",
        # The plugins of mypy-protobuf are commands of this environment.
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
    )
    return out / "headway_rpc"


@pytest.mark.parametrize("stub", STUBS)
def test_stub_is_up_to_date(stub: str, generated: Path) -> None:
    committed = (ROOT / "engine" / "headway_rpc" / stub).read_text()
    assert committed == (generated / stub).read_text(), "run `make proto`"
