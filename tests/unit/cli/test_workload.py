import random

from headway_cli.bench.workload import Workload, arrivals, fit, prompt_ids


def test_the_draws_come_in_the_published_order() -> None:
    rng = random.Random(0)
    first, second, third = arrivals(Workload(rate_per_s=10, duration_s=25))[:3]
    at_s = 0.0
    for arrival in (first, second, third):
        at_s += rng.expovariate(10)
        assert arrival.at_s == at_s
        assert arrival.input_tokens == max(16, min(2048, int(rng.lognormvariate(6.0, 0.8))))
        assert arrival.output_tokens == max(8, min(1024, int(rng.lognormvariate(5.0, 0.7))))


def test_arrivals_keep_rate_duration_and_mean_output() -> None:
    schedule = arrivals(Workload(rate_per_s=40, duration_s=250))
    assert 9_000 < len(schedule) < 11_000
    assert schedule[-1].at_s <= 250
    assert 180 < sum(arrival.output_tokens for arrival in schedule) / len(schedule) < 205


def test_lengths_are_cut_to_the_models_context() -> None:
    schedule = arrivals(Workload(rate_per_s=10, duration_s=50))
    fitted, cut = fit(schedule, 256)
    assert all(arrival.input_tokens + arrival.output_tokens <= 256 for arrival in fitted)
    assert cut == sum(a.input_tokens + a.output_tokens > 256 for a in schedule)
    assert fit(schedule, 4096) == (schedule, 0)


def test_prompts_are_valid_ids_and_equal_for_equal_seeds() -> None:
    arrival = arrivals(Workload(rate_per_s=10, duration_s=5))[3]
    ids = prompt_ids(1, arrival, 100)
    assert len(ids) == arrival.input_tokens
    assert set(ids) <= set(range(100))
    assert ids == prompt_ids(1, arrival, 100) != prompt_ids(2, arrival, 100)
