import pytest

from headway_engine.runtime.stats import ThroughputWindow


def test_throughput_is_averaged_over_the_span() -> None:
    window = ThroughputWindow(span_s=5.0)
    for tenth in range(50):
        window.record(3, 100 + tenth / 10)
    assert window.rate(104.9) == pytest.approx(30.0)


def test_throughput_of_an_idle_engine_falls_to_zero() -> None:
    window = ThroughputWindow(span_s=5.0)
    window.record(100, 0.0)
    assert window.rate(4.9) == pytest.approx(20.0)
    assert window.rate(5.0) == 0.0
