"""Draws what `headway bench engine --case batching --save` measured: `python benchmarks/plot_batching.py RESULT.jsonl IMAGE.png`.

Left: what a larger batch brings and costs. Right: the same traffic under each batching mode.
"""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

Rows = dict[str, dict[str, float]]


def read(path: Path) -> tuple[dict[str, str], Rows]:
    """Settings, and the figures by configuration (`batch 8`, `mode dynamic`) and name (`TTFT p95`)."""
    settings: dict[str, str] = {}
    rows: Rows = defaultdict(dict)
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "run":
            settings = record["settings"] | {"machine": (record["gpus"] or [record["cpu"]])[0]}
        else:
            configuration, _, name = record["name"].partition(": ")
            rows[configuration][name] = record["value"]
    return settings, rows


def draw_batches(axes: Axes, rows: Rows) -> None:
    """Throughput and ITL over the batch size, both relative to batch 1."""
    sizes = sorted(int(match[1]) for name in rows if (match := re.fullmatch(r"batch (\d+)", name)))
    base = rows[f"batch {sizes[0]}"]
    for name, label in (("throughput", "tokens/s"), ("ITL p50", "ITL p50"), ("TTFT p95", "TTFT p95")):
        values = [rows[f"batch {size}"][name] / base[name] for size in sizes]
        axes.plot(sizes, values, marker="o", label=f"{label} (batch 1: {base[name]:.3g})")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("requests at a time")
    axes.set_ylabel("times batch 1")
    axes.set_title("What a batch brings and costs")
    axes.legend()
    axes.grid(alpha=0.3)


def draw_modes(axes: Axes, rows: Rows) -> None:
    """Latencies of each mode, same arrivals."""
    modes = [name for name in rows if name.startswith("mode ")]
    names = ("TTFT p50", "TTFT p95", "ITL p95", "worst gap p95")
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        places = [place + index * width for place in range(len(modes))]
        bars = axes.bar(places, [rows[mode][name] for mode in modes], width, label=name)
        axes.bar_label(bars, fmt="{:.0f}", fontsize=7)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(modes))], [mode[5:] for mode in modes])
    axes.set_yscale("log")
    axes.set_ylabel("ms")
    axes.set_title("The same arrivals under each mode")
    axes.legend(fontsize=8)


def main(result: Path, image: Path) -> None:
    """Read and draw."""
    settings, rows = read(result)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    draw_batches(left, rows)
    draw_modes(right, rows)
    model = settings["shape"] if settings["shape"] != "None" else "SmolLM2-135M"
    figure.suptitle(
        f"{model}, {settings['input']} tokens in, {settings['output']} out, {settings['machine']}", fontsize=10
    )
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
