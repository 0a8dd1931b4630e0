import asyncio
from pathlib import Path

import pytest

from headway_cli.cluster import Cluster, Fleet, choose_fleet
from headway_cli.errors import CliError

CHAT = Fleet("default", "chat", "")
CODE = Fleet("default", "code", "")
CHAT_ELSEWHERE = Fleet("team-b", "chat", "")


@pytest.mark.parametrize("content", [b"", b"[]", b"a,b\n", b"a: [", b"\xff\xfe"])
def test_what_is_no_kubeconfig_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    (tmp_path / "config").write_bytes(content)
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    with pytest.raises(CliError, match="is no kubeconfig"):
        asyncio.run(Cluster.connect())


def test_without_a_kubeconfig_one_sentence_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", f"{tmp_path}/a:{tmp_path}/b")
    with pytest.raises(
        CliError, match=f"no cluster is known: there is no kubeconfig {tmp_path}/a:{tmp_path}/b; set KUBECONFIG"
    ):
        asyncio.run(Cluster.connect())
    assert caplog.records == [], "the library's own words"


def test_the_only_fleet_is_found_without_a_name() -> None:
    assert choose_fleet([CHAT], None, None) == CHAT


def test_a_name_chooses_among_several() -> None:
    assert choose_fleet([CHAT, CODE], "code", None) == CODE


def test_several_fleets_are_listed_with_the_way_to_choose() -> None:
    with pytest.raises(CliError, match=r"default/chat, default/code; choose one with --fleet NAME --namespace NS"):
        choose_fleet([CODE, CHAT], None, None)
    with pytest.raises(CliError, match=r"default/chat, team-b/chat"):
        choose_fleet([CHAT, CODE, CHAT_ELSEWHERE], "chat", None)


def test_no_fleet_says_so_and_names_what_there_is() -> None:
    with pytest.raises(CliError, match=r"the cluster has no LLMDeployment; apply one"):
        choose_fleet([], None, None)
    with pytest.raises(CliError, match=r"no LLMDeployment 'cat'; there are: default/chat"):
        choose_fleet([CHAT], "cat", None)
    with pytest.raises(CliError, match=r"namespace team-c has no LLMDeployment"):
        choose_fleet([], None, "team-c")
