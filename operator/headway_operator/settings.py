"""What the operator process is told when it starts: one frozen record, read from environment variables.

Parsing does no I/O: `Settings.from_env(os.environ)` either returns a complete record or raises `SettingsError` with one
sentence that names the variable, what it held and what it may hold. The chart sets these variables.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
PULL_POLICIES = ("Always", "IfNotPresent", "Never")


class SettingsError(ValueError):
    """A variable that cannot be used; the message names it and says what it may hold."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one operator process.

    Attributes:
        namespace: where the operator itself runs; its Lease lives there (HEADWAY_NAMESPACE).
        pod_name: this replica's identity in the Lease and in Events (HEADWAY_POD_NAME).
        watch_namespace: the only namespace whose fleets are managed; "" means all (HEADWAY_WATCH_NAMESPACE).
        engine_image: the image of engine pods unless an LLMDeployment names its own (HEADWAY_ENGINE_IMAGE).
        engine_image_pull_policy: its pull policy (HEADWAY_ENGINE_IMAGE_PULL_POLICY).
        engine_control_port: the port of `EngineControl` in engine pods (HEADWAY_ENGINE_CONTROL_PORT).
        kubeconfig: used outside a cluster; "" is the user's default one (KUBECONFIG).
        log_level: DEBUG, INFO, WARNING or ERROR (HEADWAY_LOG_LEVEL).
        http_port: /healthz, /readyz and /metrics; 0 takes a free port (HEADWAY_HTTP_PORT).
        request_timeout_s: the longest one request to the API server may take (HEADWAY_REQUEST_TIMEOUT_S).
        resync_interval_s: seconds between full LISTs, which find fleets whose events were lost (HEADWAY_RESYNC_INTERVAL_S).
        poll_interval_s: seconds between two GetStats of one engine (HEADWAY_POLL_INTERVAL_S).
        poll_timeout_s: deadline of one GetStats; below the interval, so that polls do not pile up (HEADWAY_POLL_TIMEOUT_S).
        stall_s: /healthz fails when a fleet that is due was not reconciled for so long (HEADWAY_STALL_S).
        lease_duration_s: a leader that has not renewed for so long has lost the Lease (HEADWAY_LEASE_DURATION_S).
        lease_renew_deadline_s: a leader that could not renew for so long stops by itself (HEADWAY_LEASE_RENEW_DEADLINE_S).
        lease_retry_s: seconds between two attempts to take or renew the Lease (HEADWAY_LEASE_RETRY_S).
    """

    namespace: str
    pod_name: str
    engine_image: str
    watch_namespace: str = ""
    engine_image_pull_policy: str = "IfNotPresent"
    engine_control_port: int = 50052
    kubeconfig: str = ""
    log_level: str = "INFO"
    http_port: int = 8081
    request_timeout_s: float = 15.0
    resync_interval_s: float = 60.0
    poll_interval_s: float = 1.0
    poll_timeout_s: float = 0.8
    stall_s: float = 180.0
    lease_duration_s: float = 15.0
    lease_renew_deadline_s: float = 10.0
    lease_retry_s: float = 2.0

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        """Read the HEADWAY_* variables.

        Raises:
            SettingsError: a required variable is missing, or one cannot be used.
        """
        given = cls(
            namespace=_required(env, "HEADWAY_NAMESPACE"),
            pod_name=_required(env, "HEADWAY_POD_NAME"),
            engine_image=_required(env, "HEADWAY_ENGINE_IMAGE"),
        )
        settings = replace(
            given,
            watch_namespace=env.get("HEADWAY_WATCH_NAMESPACE", "").strip(),
            engine_image_pull_policy=_choice(env, "HEADWAY_ENGINE_IMAGE_PULL_POLICY", PULL_POLICIES, "IfNotPresent"),
            engine_control_port=_port(env, "HEADWAY_ENGINE_CONTROL_PORT", given.engine_control_port, lowest=1),
            kubeconfig=env.get("KUBECONFIG", "").strip(),
            log_level=_choice(env, "HEADWAY_LOG_LEVEL", LOG_LEVELS, "INFO", fold=True),
            http_port=_port(env, "HEADWAY_HTTP_PORT", given.http_port, lowest=0),
            request_timeout_s=_seconds(env, "HEADWAY_REQUEST_TIMEOUT_S", given.request_timeout_s),
            resync_interval_s=_seconds(env, "HEADWAY_RESYNC_INTERVAL_S", given.resync_interval_s),
            poll_interval_s=_seconds(env, "HEADWAY_POLL_INTERVAL_S", given.poll_interval_s),
            poll_timeout_s=_seconds(env, "HEADWAY_POLL_TIMEOUT_S", given.poll_timeout_s),
            stall_s=_seconds(env, "HEADWAY_STALL_S", given.stall_s),
            lease_duration_s=_seconds(env, "HEADWAY_LEASE_DURATION_S", given.lease_duration_s),
            lease_renew_deadline_s=_seconds(env, "HEADWAY_LEASE_RENEW_DEADLINE_S", given.lease_renew_deadline_s),
            lease_retry_s=_seconds(env, "HEADWAY_LEASE_RETRY_S", given.lease_retry_s),
        )
        settings.check()
        return settings

    def check(self) -> None:
        """Hold what no single variable can say.

        Raises:
            SettingsError: two settings contradict each other.
        """
        if not self.lease_retry_s < self.lease_renew_deadline_s < self.lease_duration_s:
            raise SettingsError(
                "HEADWAY_LEASE_RETRY_S < HEADWAY_LEASE_RENEW_DEADLINE_S < HEADWAY_LEASE_DURATION_S must hold, got "
                f"{self.lease_retry_s:g}, {self.lease_renew_deadline_s:g} and {self.lease_duration_s:g}"
            )
        if self.poll_timeout_s > self.poll_interval_s:
            raise SettingsError(
                f"HEADWAY_POLL_TIMEOUT_S must not exceed HEADWAY_POLL_INTERVAL_S, got {self.poll_timeout_s:g} "
                f"and {self.poll_interval_s:g}"
            )


def _required(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "").strip()
    if not value:
        raise SettingsError(f"{name} must be set")
    return value


def _choice(env: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str, *, fold: bool = False) -> str:
    raw = env.get(name, "").strip() or default
    value = raw.upper() if fold else raw
    if value not in allowed:
        raise SettingsError(f"{name} must be one of {', '.join(allowed)}, got {raw!r}")
    return value


def _port(env: Mapping[str, str], name: str, default: int, *, lowest: int) -> int:
    raw = env.get(name, "").strip() or str(default)
    if not raw.isdecimal() or not lowest <= int(raw) <= 65535:
        raise SettingsError(f"{name} must be a port from {lowest} to 65535, got {raw!r}")
    return int(raw)


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
    raw = env.get(name, "").strip() or str(default)
    try:
        value = float(raw)
    except ValueError:
        value = -1.0
    if not 0.0 < value < 86_400.0:
        raise SettingsError(f"{name} must be seconds above 0 and below a day, got {raw!r}")
    return value
