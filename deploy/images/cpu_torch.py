#!/usr/bin/env python3
"""Make a CUDA build of torch importable on a machine without the CUDA libraries.

PyPI serves torch for Linux only as a CUDA build that asks for 4 GB of NVIDIA wheels, none of which a CPU engine uses.
torch links against them, so leaving them out breaks `import torch`. This script closes the gap in four seconds:

1. for each missing NVIDIA library it writes a stub with the right SONAME, symbol names and symbol versions, read from
   what torch's own libraries ask for. Any CUDA call that reaches a stub returns error 1, and torch reports "no driver";
2. it zeroes the GPU machine code inside libtorch_cuda.so (337 MB that compress and sparse away to nothing);
3. it removes headers and tests.

The wheel cache may share files with the installation by hard link: changed files are written anew, never in place.
Not for GPU images.

Usage: cpu_torch.py SITE_PACKAGES   (needs gcc and binutils; running it twice is harmless)
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

# Libraries whose symbols carry no version: recognised by the prefix of the symbol's name.
_UNVERSIONED_PREFIX = {"libnccl": "nccl", "libnvshmem": "nvshmem", "libcusparseLt": "cusparseLt"}
# Libraries whose symbol version is not their SONAME.
_VERSION_NODE = {"libnvshmem": "NVSHMEM"}
_MARKER = ".headway-cpu-torch"


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _missing_libraries(site: Path, users: list[Path]) -> list[str]:
    """Return the NVIDIA libraries that torch's own libraries need and no installed wheel provides."""
    needed = {
        name
        for user in users
        for name in re.findall(r"NEEDED.*\[(lib(?:cu|nv|nccl)[^\]]*)\]", _run("readelf", "-d", str(user)))
    }
    needed.discard("libcuda.so.1")  # the driver's: loaded on demand, absent on purpose
    return sorted(name for name in needed if not list(site.glob(f"nvidia/*/lib/{name}")))


def _undefined_symbols(users: list[Path]) -> set[str]:
    return {line.split()[-1] for user in users for line in _run("nm", "-D", "--undefined-only", str(user)).splitlines()}


def _write_stub(library: str, undefined: set[str], folder: Path) -> int:
    """Compile a stub of `library` into `folder`; returns how many functions it has."""
    stem = re.sub(r"(_host)?\.so.*", "", library)
    accepted = {library, _VERSION_NODE.get(stem)}
    versions = {symbol.rsplit("@", 1)[1] for symbol in undefined if "@" in symbol} & accepted
    prefix = _UNVERSIONED_PREFIX.get(stem)
    names = sorted(
        {
            symbol.split("@")[0]
            for symbol in undefined
            if ("@" in symbol and symbol.rsplit("@", 1)[1] in versions) or (prefix and symbol.startswith(prefix))
        }
    )
    command = ["gcc", "-shared", "-fPIC", "-O1", "-w", "-x", "c", "-", "-o", str(folder / library)]
    command.append(f"-Wl,-soname,{library}")
    version_script = folder / "stub.map"
    if versions:
        # Without version definitions the dynamic linker stops with an assertion.
        version_script.write_text("".join(f"{version} {{ global: *; }};\n" for version in sorted(versions, key=str)))
        command.append(f"-Wl,--version-script={version_script}")
    source = "long headway_stub(void) { return 1; }\n" + "".join(f"long {n}(void) {{ return 1; }}\n" for n in names)
    subprocess.run(command, input=source, text=True, check=True)
    version_script.unlink(missing_ok=True)
    return len(names)


def _zero_gpu_code(library: Path) -> None:
    """Overwrite the .nv_fatbin section with zeros and let the file system forget the blocks."""
    table = re.sub(r"\[ *", "[", _run("readelf", "-SW", str(library)))
    section = next(line.split() for line in table.splitlines() if " .nv_fatbin " in line)
    offset, size = int(section[4], 16), int(section[5], 16)
    copy = library.with_suffix(".headway")
    shutil.copyfile(library, copy)
    with copy.open("r+b") as file:
        file.seek(offset)
        chunk = bytes(1 << 20)
        for start in range(0, size, len(chunk)):
            file.write(chunk[: min(len(chunk), size - start)])
    copy.chmod(0o755)
    copy.replace(library)
    if shutil.which("fallocate"):
        # Best effort: some file systems cannot hold holes, and the zeros compress well anyway.
        subprocess.run(["fallocate", "--dig-holes", str(library)], check=False, stderr=subprocess.DEVNULL)


def main(site: Path) -> int:
    """Make torch under `site` work without CUDA libraries; returns the exit code."""
    libraries = site / "torch" / "lib"
    if not libraries.is_dir():
        print(f"cpu_torch: no torch under {site}", file=sys.stderr)
        return 1
    marker = site / "torch" / _MARKER
    if marker.exists():
        return 0
    missing_tools = [tool for tool in ("gcc", "readelf", "nm") if shutil.which(tool) is None]
    if missing_tools:
        print(f"cpu_torch: needs {', '.join(missing_tools)} (Debian: apt-get install gcc binutils)", file=sys.stderr)
        return 1
    users = sorted(libraries.glob("lib*.so"))
    stubs = next(site.glob("nvidia/cu1*/lib"), None)
    if stubs is None:
        print(f"cpu_torch: no CUDA runtime wheel under {site}/nvidia: torch's layout changed", file=sys.stderr)
        return 1
    undefined = _undefined_symbols(users)
    for library in _missing_libraries(site, users):
        print(f"cpu_torch: stub {library} ({_write_stub(library, undefined, stubs)} functions)")
    _zero_gpu_code(libraries / "libtorch_cuda.so")
    for folder in ("include", "test"):
        shutil.rmtree(site / "torch" / folder, ignore_errors=True)
    marker.touch()
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(Path(sys.argv[1])))
