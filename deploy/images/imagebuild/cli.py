"""The command line of `deploy/images/build.py`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from localcluster.errors import ClusterError
from localcluster.progress import Progress
from localcluster.settings import Paths

from . import engines, oci, own
from .errors import BuildError
from .oci import Published
from .recipe import NAMES, recipe
from .store import Store

ROOT = Path(__file__).resolve().parents[3]


def main(argv: Sequence[str]) -> int:
    """Builds what is asked for; prints a JSON line per image and returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        _build(options)
    except (BuildError, ClusterError) as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="build.py",
        description="Builds Headway's images and puts them into the local cluster's registry folder.",
        epilog="Prints one JSON line per image: name, digest, size in bytes, seconds.",
    )
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=f"{' or '.join(NAMES)} (default: both)")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="what the engine runs on (default: cpu)"
    )
    parser.add_argument("--base", metavar="IMAGE", help="base image: Debian or Ubuntu with Python 3.11 or later")
    parser.add_argument(
        "--engine",
        choices=("auto", "own", *engines.ENGINES),
        default="auto",
        help="auto takes docker or podman if one works, otherwise the built-in builder",
    )
    parser.add_argument(
        "--provider", choices=("own", "kind", "current"), default="own", help="kind: also load the images into it"
    )
    parser.add_argument(
        "--kind-name", default="headway", metavar="NAME", help="name of the kind cluster (default: headway)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.tar", help="also write the images as one OCI archive")
    parser.add_argument("--no-cache", action="store_true", help="execute every step again")
    return parser


def _build(options: argparse.Namespace) -> None:
    unknown = sorted(set(options.images) - set(NAMES))
    if unknown:
        raise BuildError(f"there is no image {unknown[0]}; choose from {', '.join(NAMES)}")
    engine = _choose(options.engine)
    paths = Paths.from_env(os.environ)
    store = Store(paths.registry.parent / "images", paths.registry, fresh=options.no_cache)
    progress = Progress(sys.stderr, tty=sys.stderr.isatty())
    built: list[Published] = []
    with store.locked():
        for name in dict.fromkeys(options.images or NAMES):
            started = time.monotonic()
            wanted = recipe(name, options.device, options.base)
            if engine == "own":
                image = own.build(wanted, ROOT, store, paths, progress)
            else:
                image = engines.build(engine, wanted, ROOT, paths.registry, no_cache=options.no_cache)
            built.append(image)
            seconds = round(time.monotonic() - started, 2)
            line = {"name": image.name, "digest": image.digest, "size": image.size, "seconds": seconds}
            print(json.dumps(line), flush=True)
        store.prune()
    if options.output:
        oci.write_archive(paths.registry, built, options.output)
    if options.provider == "kind":
        _load_into_kind(paths.registry, built, options.kind_name)


def _choose(asked: str) -> str:
    if asked == "auto":
        return next((engine for engine in engines.ENGINES if engines.works(engine)), "own")
    if asked in engines.ENGINES and not engines.works(asked):
        raise BuildError(f"{asked} does not answer (`{asked} info` fails): start it, or use --engine own")
    return asked


def _load_into_kind(registry: Path, images: list[Published], name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "images.tar")
        oci.write_archive(registry, images, archive)
        argv = ["kind", "load", "image-archive", str(archive), "--name", name]
        try:
            done = subprocess.run(argv, stdout=2, check=False)
        except FileNotFoundError as error:
            raise BuildError("kind is not installed: it is needed for --provider kind") from error
        if done.returncode != 0:
            raise BuildError(f"`{' '.join(argv)}` failed with exit code {done.returncode}")
