"""`headway schedule preview` shows what the operator would do, and refuses what it would refuse."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from fleet_world import spec

from headway_cli.errors import CliError
from headway_cli.main import run
from headway_cli.schedule import table, windows
from headway_operator.api.v1alpha1 import LLMDeployment
from headway_operator.core import validation

NIGHT = {"name": "night", "cron": "30 2 * * *", "timeZone": "Europe/Berlin", "durationSeconds": 3600}
# The clocks of Berlin go from 02:00 to 03:00 on 2026-03-29.
BEFORE_THE_CHANGE = datetime(2026, 3, 28, 0, 0, tzinfo=UTC)


def manifest(*schedules: object) -> dict[str, object]:
    return {
        "apiVersion": "serving.headway.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": "chat"},
        "spec": spec(schedules=list(schedules)),
    }


def saved(folder: Path, *schedules: object) -> str:
    path = folder / "fleet.yaml"
    path.write_text(yaml.safe_dump(manifest(*schedules)))
    return str(path)


def test_a_begin_that_the_clock_skips_comes_after_the_gap() -> None:
    named = {"metadata": {"name": "chat", "namespace": "default"}}
    overrides = {"limits": {"maxNumSeqs": 16}, "scaling": {"minReplicas": 1}}
    fleet = validation.parse({**manifest({**NIGHT, **overrides}), **named})
    assert isinstance(fleet, LLMDeployment)
    found = list(windows(fleet, BEFORE_THE_CHANGE, 2))
    assert [window.begin.isoformat() for window in found] == ["2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00"]
    assert table(found, 2).splitlines()[1] == (
        "night   Sat 2026-03-28 02:30 CET   Sat 2026-03-28 03:30 CET   Sat 2026-03-28 01:30  "
        "scaling.minReplicas 1, limits.maxNumSeqs 16"
    )


def test_a_file_is_previewed_without_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schedule", "preview", "-f", saved(tmp_path, NIGHT), "--days", "3", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["name"] for line in lines} == {"night"}
    assert len(lines) in (3, 4)  # one more while a window is open
    assert run(["schedule", "preview", "-f", saved(tmp_path)]) == 0
    assert capsys.readouterr().out == "no window in the next 7 days\n"


def test_what_the_operator_refuses_is_refused_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(CliError, match=r"spec.schedules\[night\].cron: never fires"):
        run(["schedule", "preview", "-f", saved(tmp_path, {**NIGHT, "cron": "0 0 30 2 *"})])
    with pytest.raises(CliError, match="--days must lie in 1 to 366, got 0"):
        run(["schedule", "preview", "-f", saved(tmp_path), "--days", "0"])
    (tmp_path / "empty.yaml").write_text("{}")
    with pytest.raises(CliError, match="needs one LLMDeployment, has 0"):
        run(["schedule", "preview", "-f", str(tmp_path / "empty.yaml")])


def test_a_file_without_end_of_nesting_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "deep.yaml"
    file.write_text("[" * 10_000)
    with pytest.raises(CliError, match="nested too deeply"):
        run(["schedule", "preview", "-f", str(file)])


def test_a_window_that_contradicts_an_earlier_one_says_to_which_it_gives_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calm = {**NIGHT, "name": "calm", "scaling": {"maxReplicas": 2}}
    path = saved(tmp_path, {**NIGHT, "scaling": {"minReplicas": 5}}, calm)
    assert run(["schedule", "preview", "-f", path, "--days", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(("(set aside while night is open)" in line) == line.startswith("calm") for line in lines)
    assert run(["schedule", "preview", "-f", path, "--days", "2", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["name"]: line["givesWayTo"] for line in found} == {"night": [], "calm": ["night"]}
