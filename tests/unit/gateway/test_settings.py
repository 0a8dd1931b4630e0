"""The gateway's command line names a wrong flag and its limits."""

import pytest

from headway_gateway.settings import parse


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine", "here"], "--engine must be HOST:PORT with a port of 1 to 65535, got 'here'"),
        (["--engine", "here:99999"], "--engine must be HOST:PORT with a port of 1 to 65535, got 'here:99999'"),
        (["--engine", "e:1", "--port", "99999"], "--port must be 0 to 65535, got 99999"),
        (
            ["--engine", "e:1", "--request-timeout-seconds", "nan"],
            "--request-timeout-seconds must be 1 to 86400, got nan",
        ),
        (
            ["--engine", "e:1", "--drain-delay-seconds", "86401"],
            "--drain-delay-seconds must be 0 to 86400, got 86401.0",
        ),
        (["--engine", "e:1", "--drain-timeout-seconds", "-1"], "--drain-timeout-seconds must be 0 to 86400, got -1"),
        (["--engine", "e:1", "--max-body-bytes", "0"], "--max-body-bytes must be 1 to 1073741824, got 0"),
    ],
)
def test_a_value_beyond_its_limits_is_refused(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(flags)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
