import pytest
from fake_async_engine import FakeAsyncEngine
from prometheus_client.parser import text_string_to_metric_families

from headway_engine.core.histogram import HistogramRecorder
from headway_engine.server.metrics import cumulative_buckets, renderer


async def test_the_names_and_values_of_a_scrape() -> None:
    engine = FakeAsyncEngine()
    engine.ttft.record(30.0)
    engine.finished = {"stop": 5, "abort": 1}
    text = renderer(engine.stats, "smol")().decode()
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    model = ("model_name", "smol")
    assert samples["headway_engine_request_success_total", ("finished_reason", "stop"), model] == 5
    assert samples["headway_engine_admission_rejections_total", model, ("reason", "queue_full")] == 1
    assert samples["headway_engine_prompt_tokens_total", model] == 11
    assert samples["headway_engine_prefix_cache_hits_total", model] == 7
    assert samples["headway_engine_generation_tokens_total", model] == 22
    assert samples["headway_engine_preemptions_total", model] == 3
    assert samples["headway_engine_num_requests_running", model] == 0
    assert samples["headway_engine_num_requests_waiting", model] == 0
    assert samples["headway_engine_kv_cache_usage_perc", model] == 0
    assert samples["headway_engine_limit_max_num_seqs", model] == 64
    assert samples["headway_engine_runtime_config_revision", model] == 1
    assert samples["headway_engine_time_to_first_token_seconds_count", model] == 1
    assert samples["headway_engine_time_to_first_token_seconds_sum", model] == pytest.approx(0.03)
    realtime = ("workload_class", "realtime")
    assert samples["headway_engine_class_time_to_first_token_seconds_count", model, realtime] == 1
    assert samples["headway_engine_class_inter_token_latency_seconds_count", model, realtime] == 0
    assert samples["headway_engine_class_requests_finished_total", model, realtime] == 2
    assert samples["headway_engine_class_requests_late_total", model, realtime] == 1
    assert samples["headway_engine_class_requests_refused_total", model, realtime] == 0
    assert not any(("workload_class", "batch") in key for key in samples)
    for histogram in ("inter_token_latency_seconds", "request_queue_time_seconds"):
        assert samples[f"headway_engine_{histogram}_count", model] == 0


def test_before_the_model_is_loaded_only_the_process_is_reported() -> None:
    text = renderer(lambda: None, "smol")().decode()
    assert "headway_engine_" not in text
    assert "python_info" in text


def test_cumulative_buckets_move_a_value_by_at_most_one_bucket() -> None:
    recorder = HistogramRecorder()
    for value_ms in (1.0, 9.0, 11.0, 99.0, 5000.0):
        recorder.record(value_ms)
    buckets = dict(cumulative_buckets(recorder.snapshot(), (0.01, 0.1, 0.11, 1.0)))
    assert buckets == {"0.01": 2, "0.1": 3, "0.11": 4, "1.0": 4, "+Inf": 5}
