"""Generates what follows from the chart: the plain manifests of the operator and the chart's table of values; and the alerts.

    python3 deploy/manifests.py            writes deploy/operator/operator.yaml, the table in charts/headway/README.md
                                           and deploy/alerts/headway.rules.yaml
    python3 deploy/manifests.py --check    says what differs and exits with 1

The plain manifests are the chart with its defaults, without the labels that only Helm needs. The CRD is not among them:
deploy/crd has it.
"""

import re
import subprocess
import sys
from pathlib import Path

import alert_rules

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts" / "headway"
OPERATOR = ROOT / "deploy" / "operator" / "operator.yaml"
README = CHART / "README.md"
ALERTS = ROOT / "deploy" / "alerts" / "headway.rules.yaml"
NAMESPACE = "headway-system"
_HEADER = "# Rendered from charts/headway by `make manifests`. Do not edit.\n"
_HELM_ONLY = re.compile(r"^\s+(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", re.MULTILINE)
_TABLE = re.compile(r"(?<=<!-- values -->\n).*?(?=<!-- end of values -->)", re.DOTALL)


def helm() -> str:
    """The helm binary: the user's, or the local cluster's."""
    found = subprocess.run(
        ["bash", "-c", "command -v helm"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if found:
        return found
    tool = [sys.executable, str(ROOT / "deploy" / "local" / "cluster.py"), "bin-dir"]
    folder = subprocess.run(tool, capture_output=True, text=True, check=False).stdout.strip()
    if folder and Path(folder, "helm").is_file():
        return str(Path(folder, "helm"))
    raise SystemExit("helm is missing: install it, or run `make cluster`, which builds one")


def render(*options: str) -> str:
    """The chart as YAML, with the default values and `options`."""
    argv = [helm(), "template", "headway", str(CHART), "--namespace", NAMESPACE, *options]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return done.stdout


def plain_manifests() -> str:
    """The operator as plain YAML."""
    return _HEADER + _HELM_ONLY.sub("", render("--set", "crds.install=false"))


def values_table() -> str:
    """The values with their defaults and comments, as a Markdown table."""
    rows = ["| value | default | meaning |", "| --- | --- | --- |"]
    path: list[str] = []
    comment = ""
    for line in (CHART / "values.yaml").read_text().splitlines():
        if said := re.match(r"\s*# -- (.*)", line):
            comment = said[1]
            continue
        entry = re.match(r"( *)([A-Za-z]+):(?: (.*))?$", line)
        if entry is None:
            continue
        del path[len(entry[1]) // 2 :]
        path.append(entry[2])
        if comment:
            default = f"`{entry[3]}`" if entry[3] else "see `values.yaml`"
            rows.append(f"| `{'.'.join(path)}` | {default} | {comment} |")
            comment = ""
    return "\n".join(rows) + "\n"


def generated() -> dict[Path, str]:
    """Every generated file and what it should hold."""
    table = values_table()
    return {
        OPERATOR: plain_manifests(),
        README: _TABLE.sub(lambda _: table, README.read_text()),
        ALERTS: alert_rules.rule_file(),
    }


def main(arguments: list[str]) -> int:
    """Writes or checks the files; returns the exit code."""
    stale = {path: text for path, text in generated().items() if not path.is_file() or path.read_text() != text}
    for path, text in stale.items():
        print(path.relative_to(ROOT))
        if arguments != ["--check"]:
            path.write_text(text)
    return 1 if stale and arguments == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
