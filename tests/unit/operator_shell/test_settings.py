"""Settings from the environment: complete, or refused with a sentence that names the variable."""

import pytest

from headway_operator.settings import Settings, SettingsError

REQUIRED = {"HEADWAY_NAMESPACE": "headway", "HEADWAY_POD_NAME": "op-1", "HEADWAY_ENGINE_IMAGE": "engine:1"}


def test_what_is_not_set_keeps_its_default() -> None:
    assert Settings.from_env(REQUIRED) == Settings("headway", "op-1", "engine:1")


def test_every_variable_is_read() -> None:
    env = REQUIRED | {
        "HEADWAY_WATCH_NAMESPACE": "apps",
        "HEADWAY_ENGINE_IMAGE_PULL_POLICY": "Never",
        "HEADWAY_ENGINE_CONTROL_PORT": "1",
        "KUBECONFIG": "/home/user/config",
        "HEADWAY_LOG_LEVEL": "debug",
        "HEADWAY_HTTP_PORT": "0",
        "HEADWAY_REQUEST_TIMEOUT_S": "2",
        "HEADWAY_RESYNC_INTERVAL_S": "3",
        "HEADWAY_POLL_INTERVAL_S": "5",
        "HEADWAY_POLL_TIMEOUT_S": "4",
        "HEADWAY_STALL_S": "6",
        "HEADWAY_LEASE_DURATION_S": "9",
        "HEADWAY_LEASE_RENEW_DEADLINE_S": "8",
        "HEADWAY_LEASE_RETRY_S": "7",
    }
    assert Settings.from_env(env) == Settings(
        namespace="headway",
        pod_name="op-1",
        engine_image="engine:1",
        watch_namespace="apps",
        engine_image_pull_policy="Never",
        engine_control_port=1,
        kubeconfig="/home/user/config",
        log_level="DEBUG",
        http_port=0,
        request_timeout_s=2.0,
        resync_interval_s=3.0,
        poll_interval_s=5.0,
        poll_timeout_s=4.0,
        stall_s=6.0,
        lease_duration_s=9.0,
        lease_renew_deadline_s=8.0,
        lease_retry_s=7.0,
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"HEADWAY_POD_NAME": " "}, "HEADWAY_POD_NAME must be set"),
        ({"HEADWAY_HTTP_PORT": "65536"}, "HEADWAY_HTTP_PORT must be a port from 0 to 65535, got '65536'"),
        ({"HEADWAY_LOG_LEVEL": "loud"}, "HEADWAY_LOG_LEVEL must be one of DEBUG, INFO, WARNING, ERROR, got 'loud'"),
        ({"HEADWAY_STALL_S": "nan"}, "HEADWAY_STALL_S must be seconds above 0"),
        ({"HEADWAY_STALL_S": "soon"}, "HEADWAY_STALL_S must be seconds above 0"),
        ({"HEADWAY_LEASE_RETRY_S": "12"}, "HEADWAY_LEASE_RETRY_S < HEADWAY_LEASE_RENEW_DEADLINE_S"),
        ({"HEADWAY_POLL_TIMEOUT_S": "2"}, "HEADWAY_POLL_TIMEOUT_S must not exceed HEADWAY_POLL_INTERVAL_S"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        Settings.from_env(REQUIRED | change)
