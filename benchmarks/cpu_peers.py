"""Tokens per second on the CPU beside vLLM's CPU build and llama.cpp, one after the other in turns, in one run.

    python benchmarks/cpu_peers.py --model DIRECTORY --gguf FILE --vllm PYTHON --llamacpp PYTHON --output FOLDER

DIRECTORY holds SmolLM2 as safetensors, FILE as GGUF; PYTHON is the interpreter of an environment with that engine
(docs/performance.md says how to make them). vLLM computes in bfloat16, ours in bfloat16 and, named headway-int8, in int8, all on
the same weights; llama.cpp on those of the file (Q4_1). 64 tokens in, 64 greedy tokens out, 1, 8 and 16 requests at once.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from headway_engine.bench import report
from headway_engine.bench.report import Figure, Report, of_samples

OURS = ("headway", "headway-int8")
TOKENS = 64
BATCHES = (1, 8, 16)
# The ratio that we want over each peer; None: reported only.
GOALS: dict[str, dict[int, float | None]] = {"vllm": {1: 1.2, 8: 1.2, 16: 1.2}, "llamacpp": {1: None, 8: 1.0, 16: 1.0}}


class Peer:
    """An engine in a process of its own, that computes only when it is asked."""

    def __init__(self, python: str, engine: str, model: Path, threads: int) -> None:
        """Start it and wait until it is warm."""
        worker = str(Path(__file__).with_name("cpu_peer.py"))
        command = [python, worker, engine, str(model), str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - our own
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("no pipes")  # it has them: they were asked for
        self._pipes = self._process.stdin, self._process.stdout
        self._read()

    def rate(self, requests: int) -> float:
        """Tokens per second of that many requests at once."""
        self._pipes[0].write(f"{requests}\n".encode())
        self._pipes[0].flush()
        return requests * TOKENS / float(json.loads(self._read()))

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> bytes:
        line = self._pipes[1].readline()
        if not line:
            raise RuntimeError(f"a worker ended with {self._process.wait()}")
        return line


def main(options: argparse.Namespace) -> None:
    """Measure, print and save."""
    peers = {name: Peer(sys.executable, name, options.model, options.threads) for name in OURS}
    if options.vllm:
        peers["vllm"] = Peer(options.vllm, "vllm", options.model, options.threads)
    if options.llamacpp:
        peers["llamacpp"] = Peer(options.llamacpp, "llamacpp", options.gguf, options.threads)
    figures: list[Figure] = []
    for batch in BATCHES:
        rates: dict[str, list[float]] = {name: [] for name in peers}
        for _ in range(options.repetitions):
            for name, peer in peers.items():
                rates[name].append(peer.rate(batch))
        for name, samples in rates.items():
            figures.append(of_samples(f"{name}, {batch} at once", "tok/s", samples))
        for own, other in itertools.product(OURS, rates.keys() - set(OURS)):
            ratios = [ours / theirs for ours, theirs in zip(rates[own], rates[other], strict=True)]
            figures.append(of_samples(f"{own} over {other}, {batch} at once", "x", ratios, GOALS[other][batch]))
        medians = {name: round(statistics.median(samples), 1) for name, samples in rates.items()}
        print(f"{batch} at once: {medians}", file=sys.stderr)
    for peer in peers.values():
        peer.close()
    result = Report("cpu-peers", {"threads": options.threads, "repetitions": options.repetitions}, tuple(figures))
    print(report.as_table(result))
    now = datetime.now(UTC)
    report.save(report.as_lines(result, report.environment(), now), result, now, options.output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="DIRECTORY")
    parser.add_argument("--gguf", type=Path, metavar="FILE")
    parser.add_argument("--vllm", metavar="PYTHON")
    parser.add_argument("--llamacpp", metavar="PYTHON")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--repetitions", type=int, default=5, metavar="N")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    main(parser.parse_args())
