"""All GPU cases of the engine, each shape built once: `python benchmarks/gpu_cases.py FOLDER [SHAPE ...]`.

Measures decode, prefill and offline256 and writes a file of JSON lines per shape, so that a run that is cut off keeps what
it has. Needs torch, triton, transformers and numpy, and `engine` on PYTHONPATH.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from headway_engine.bench import decode, offline, prefill, report
from headway_engine.bench.report import Figure, Report
from headway_engine.bench.shapes import SHAPES, ShapeEngine


def main(folder: Path, shapes: list[str]) -> None:
    """Measure and save."""
    for name in shapes:
        engine = ShapeEngine(name)
        figures = [Figure(f"{name} build to first token", "s", engine.start_s, (engine.start_s,))]
        figures += decode.measure(engine, name, repetitions=3)
        figures += prefill.measure(engine, name)
        figures += offline.measure(engine, name)
        engine.close()
        result = Report(f"gpu-{name}", {"shape": name}, tuple(figures))
        now = datetime.now(UTC)
        print(report.as_table(result), flush=True)
        report.save(report.as_lines(result, report.environment(), now), result, now, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(SHAPES))
