import pytest

from headway_engine.__main__ import engine_config
from headway_engine.core.request import Priority
from headway_engine.settings import SettingsError, parse


def test_defaults_are_those_of_the_architecture_page() -> None:
    settings = parse(["--model", "/models/SmolLM2-135M.Q4_1.gguf"], {})
    assert settings.served_model_name == "SmolLM2-135M.Q4_1"
    assert (settings.device, settings.dtype, settings.block_size) == ("auto", "auto", 16)
    assert (settings.max_num_seqs, settings.max_num_batched_tokens) == (64, 2048)
    assert (settings.batch_wait_ms, settings.max_queued_requests) == (0, 256)
    assert (settings.port, settings.control_port, settings.http_port) == (50051, 50052, 8080)
    assert (settings.drain_timeout_seconds, settings.max_model_len, settings.threads) == (300, None, None)


def test_mode_profile_and_target_reach_the_engine() -> None:
    argv = ["--model", "m", "--batching-mode", "static", "--profile", "low-tail", "--itl-target-ms", "30"]
    baseline = engine_config(parse(argv, {})).baseline()
    assert (baseline.batching_mode, baseline.profile, baseline.itl_target_ms) == ("static", "low-tail", 30)
    with pytest.raises(SettingsError, match="--batching-mode must be one of continuous, static, dynamic, adaptive"):
        parse(["--model", "m", "--batching-mode", "clever"], {})


def test_class_reserve_and_queue_of_batch_work_reach_the_engine() -> None:
    argv = [
        "--model",
        "m",
        "--default-class",
        "batch",
        "--reserved-percent",
        "20",
        "--max-queued-batch-requests",
        "500",
    ]
    baseline = engine_config(parse(argv, {})).baseline()
    assert (baseline.default_class, baseline.reserved_percent, baseline.max_queued_batch_requests) == (
        Priority.BATCH,
        20,
        500,
    )
    with pytest.raises(
        SettingsError, match="--default-class must be one of realtime, interactive, batch, got 'urgent'"
    ):
        parse(["--model", "m", "--default-class", "urgent"], {})
    with pytest.raises(SettingsError, match="--reserved-percent must be between 0 and 90, got 91"):
        parse(["--model", "m", "--reserved-percent", "91"], {})
    problem = engine_config(parse([*argv, "--capacity-max-queued-requests", "400"], {})).problem()
    assert problem == "limits.max_queued_batch_requests is 500, the envelope allows 0 to 400"


def test_a_directory_keeps_its_dots_in_the_served_name() -> None:
    assert parse(["--model", "/models/Qwen2.5-0.5B/"], {}).served_model_name == "Qwen2.5-0.5B"


def test_limits_default_to_the_capacity() -> None:
    argv = ["--model", "m", "--capacity-max-num-seqs", "8", "--capacity-max-queued-requests", "100"]
    settings = parse(argv, {})
    assert (settings.max_num_seqs, settings.max_queued_requests) == (8, 100)


def test_the_environment_sets_what_no_flag_sets() -> None:
    env = {"HEADWAY_MODEL": "/m/a.gguf", "HEADWAY_MAX_NUM_SEQS": "4", "HEADWAY_DTYPE": "bfloat16"}
    settings = parse(["--max-num-seqs", "2"], env)
    assert (settings.model, settings.max_num_seqs, settings.dtype) == ("/m/a.gguf", 2, "bfloat16")


def test_the_service_variables_of_kubernetes_are_not_taken_for_ports() -> None:
    assert parse(["--model", "m"], {"HEADWAY_PORT": "tcp://10.0.0.1:50051"}).port == 50051


@pytest.mark.parametrize(
    ("argv", "env", "message"),
    [
        ([], {}, "--model is required"),
        (["--model", "m", "--block-size", "0"], {}, "--block-size must be between 1 and 1024, got 0"),
        (["--model", "m", "--port", "http"], {}, "--port must be a whole number, got 'http'"),
        (["--model", "m", "--device", "tpu"], {}, "--device must be one of auto, cpu, cuda, got 'tpu'"),
        (["--model", "m"], {"HEADWAY_THREADS": "0"}, "HEADWAY_THREADS must be between 1 and 1024, got 0"),
        (["--model", "m", "--max-num-seqs", "65"], {}, "--max-num-seqs must be at most --capacity-max-num-seqs (64)"),
        (["--model", "m", "--max-num-batched-tokens", "63"], {}, "must be at least --max-num-seqs (64), got 63"),
        (["--model", "m", "--http-port", "50051"], {}, "--port, --control-port and --http-port must differ"),
        (["--model", "m", "--max-num-seq", "2"], {}, "unrecognized arguments: --max-num-seq"),
    ],
)
def test_a_bad_setting_is_named_with_its_bound(argv: list[str], env: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(argv, env)
    assert message in str(refused.value)


def test_every_setting_of_the_runtime_reaches_it() -> None:
    argv = ["--model", "/m/x", "--threads", "2", "--kv-cache-memory-mib", "64", "--max-model-len", "512"]
    config = engine_config(parse(argv, {}))
    assert (str(config.model), config.threads, config.kv_cache_memory_mib, config.max_model_len) == ("/m/x", 2, 64, 512)
    assert config.problem() is None
