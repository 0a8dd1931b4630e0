#!/usr/bin/env python3
"""`make demo`: from a bare machine to a fleet that answers, scales out and in, and retunes itself, in one command.

Every step is the real thing: a real Kubernetes, the chart, a real model in real pods, real requests. DEMO_LOAD=0 stops
after the first answer; DEMO_RATE and DEMO_SECONDS change the load.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import steps
import watch
from claim import claimed
from steps import say

NAME, NAMESPACE = "smollm2", "demo"
PROMPT = "The capital of France is"


def first_answer() -> None:
    """Apply the example and stream one answer."""
    steps.make_namespace(NAMESPACE)
    manifest = steps.ROOT / "deploy/examples/quickstart.yaml"
    say(f"kubectl apply -n {NAMESPACE} -f {manifest.relative_to(steps.ROOT)}")
    began_s = time.monotonic()
    steps.run(["kubectl", "apply", "-n", NAMESPACE, "-f", str(manifest)])
    steps.wait_ready(NAME, NAMESPACE)
    say(f"ready {time.monotonic() - began_s:.1f} s after kubectl apply; now: headway generate {PROMPT!r}")
    print()
    steps.show(["headway", "generate", PROMPT, "--max-tokens", "24", "--temperature", "0"])
    print()
    say(f"{time.monotonic() - began_s:.1f} s from kubectl apply to the end of the first answer")


def identities() -> dict[str, int]:
    """Return the restart count by pod uid: what a retune must not change."""
    return {
        pod["metadata"]["uid"]: sum(state["restartCount"] for state in pod["status"].get("containerStatuses", []))
        for pod in steps.engine_pods(NAME, NAMESPACE)
    }


def load(rate: float, seconds: int) -> bool:
    """Send an open-loop load, show what the fleet does, and wait until it is small again.

    Returns:
        True when it scaled out, its limits changed, and nothing was lost.
    """
    before = identities()
    say(f"{seconds} s of load at {rate:g} requests/s (Poisson); watch SEQS and TOKENS change in running engines")
    with tempfile.TemporaryDirectory() as folder:
        report_path = Path(folder) / "report.json"
        command = ["headway", "bench", "online", "--fleet", NAME, "--namespace", NAMESPACE, "--rate", str(rate),
                   "--duration", str(seconds), "--max-input", "48", "--max-output", "32", "--json"]  # fmt: skip
        with report_path.open("w") as report_file:
            bench = subprocess.Popen(command, stdout=report_file, env=steps.environment())
        began_s = time.monotonic()
        following = watch.follow(NAME, NAMESPACE, lambda _: bench.poll() is not None, timeout_s=seconds + 120)
        seen = [(time.monotonic() - began_s, row) for row in following]
        peak, limits = max(row.ready for _, row in seen), {row.limits for _, row in seen}
        try:
            code = bench.wait(timeout=60)
        except subprocess.TimeoutExpired as error:
            bench.kill()
            raise steps.StepError("the load generator does not end: requests still wait for an answer") from error
        if code:
            raise steps.StepError(f"the load generator ended with exit code {code}")
        report = json.loads(report_path.read_text().splitlines()[-1])
    say("load is over; the fleet shrinks to its minimum, draining each pod first")
    smallest = steps.fleet(NAME, NAMESPACE)["spec"]["scaling"].get("minReplicas", 1)
    rows = list(watch.follow(NAME, NAMESPACE, lambda row: row.ready == row.desired == smallest, timeout_s=240))
    after = identities()
    kept = set(before) & set(after)
    print()
    say(
        f"requests: {report['requests']} sent, {report['completed']} answered in full, {report['failed']} failed, "
        f"{report['cut']} of them cut; {report['retried']} sent again because their pod was about to leave"
    )
    say(f"TTFT p50 {report['ttft_ms']['p50']:.0f} ms, p95 {report['ttft_ms']['p95']:.0f} ms; "
        f"ITL p95 {report['gap_ms']['p95']:.0f} ms; {report['output_tokens_per_s']:.0f} tokens/s")  # fmt: skip
    say(f"replicas: 1 -> {peak} -> {rows[-1].ready}; limits seen (sequences, tokens per step): "
        f"{', '.join(f'{seqs}/{tokens}' for seqs, tokens in sorted(limits, key=str))}")  # fmt: skip
    say(objective(seen))
    restarts = sum(after[uid] - before[uid] for uid in kept)
    say(f"pods that were there before the load and still are: {len(kept)}, restarted: {restarts}")
    return bool(report["failed"] == 0 and restarts == 0 and peak > 1 and len(limits) > 1)


def objective(seen: Sequence[tuple[float, watch.Row]]) -> str:
    """When the fleet did what about the load, and what became of its objective. `seen`: with seconds since the load began."""
    first = seen[0][1]
    acts = {
        "engines retuned": (at_s for at_s, row in seen if row.limits != first.limits),
        "more replicas wanted": (at_s for at_s, row in seen if row.desired > first.desired),
        "more replicas ready": (at_s for at_s, row in seen if row.ready > first.ready),
    }
    done = [f"{what} after {at_s:.0f} s" for what, times in acts.items() if (at_s := next(times, None)) is not None]
    missed_s = [at_s for at_s, row in seen if row.slo_met is False]
    kept = "kept all the time"
    if missed_s:
        kept = f"missed from {missed_s[0]:.0f} to {missed_s[-1]:.0f} s of {seen[-1][0]:.0f} s (its percentiles are of the last minute)"
    return f"{', '.join(done)}; the objective was {kept}"


def run(provider: str, nodes: int) -> bool:
    """Start everything and show it; returns whether all went as it should."""
    began_s = time.monotonic()
    say("starting Kubernetes (the first time it is built from source, about 10 minutes on 2 cores)")
    cluster = steps.start_cluster(provider, nodes)
    say("building the images (the first time about 4 minutes)")
    images = steps.build_images(cluster)
    say("installing the chart: helm upgrade --install headway charts/headway")
    steps.install_chart(images)
    first_answer()
    say(f"{time.monotonic() - began_s:.0f} s since make demo")
    if os.environ.get("DEMO_LOAD", "1") == "0":
        return True
    return load(float(os.environ.get("DEMO_RATE", "1.5")), int(os.environ.get("DEMO_SECONDS", "90")))


def shell_line(provider: str) -> str:
    """The command that points a user's shell at the cluster. The own one brings kubectl and helm, which may be nowhere else."""
    if provider == "own":
        return 'eval "$(python3 deploy/local/cluster.py env)"'
    return f"export KUBECONFIG=$(make -s kubeconfig CLUSTER={provider})"


def main() -> int:
    """Run the demo; returns the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cluster", choices=["own", "kind", "current"], default="own")
    arguments.add_argument("--nodes", type=int, choices=[1, 2], default=1)
    options = arguments.parse_args()
    try:
        with claimed(options.cluster, "make demo"):
            fine = run(options.cluster, options.nodes)
    except steps.StepError as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    print(f"""
Try:
  {shell_line(options.cluster)}
  export PATH=$PWD/.venv/bin:$PATH
  kubectl get llmdep -n {NAMESPACE} -o wide
  headway generate "{PROMPT}"
  headway top
Stop everything:
  make demo-down CLUSTER={options.cluster}""")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
