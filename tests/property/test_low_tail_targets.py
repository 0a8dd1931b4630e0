"""Profile low-tail, on a simulated clock: whatever comes, no stream waits longer for a token than its class's target."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_steps import DECODE_MS, Simulation

from headway_engine.core.limits import Limits, Profile
from headway_engine.core.request import Priority

STREAMS = 12  # at most at a time: their decodes alone take 4.24 ms, less than any target here
DECODES_MS = STREAMS * DECODE_MS  # those that came or went since a step's time was learnt
LEARNT = 1.03  # prices are learnt from steps beside other numbers of decodes


@dataclass(frozen=True)
class Newcomer:
    """A request, and when it comes."""

    at_s: float
    kind: Priority
    prompt: int
    output: int


newcomers = st.builds(
    Newcomer,
    at_s=st.floats(0, 0.5),
    kind=st.sampled_from(Priority),
    prompt=st.integers(100, 3000),  # the step of a handful of tokens teaches little of what one costs
    output=st.integers(1, 60),
)


@settings(max_examples=60)
@given(
    least=st.integers(8, 20),
    more=st.tuples(st.integers(0, 40), st.integers(0, 200)),
    unbounded=st.booleans(),
    reserved=st.sampled_from((0, 20)),
    coming=st.lists(newcomers, min_size=2, max_size=STREAMS),
)
def test_no_gap_of_a_stream_is_longer_than_the_target_of_its_class(
    least: int, more: tuple[int, int], unbounded: bool, reserved: int, coming: list[Newcomer]
) -> None:
    targets = {Priority.REALTIME: least, Priority.INTERACTIVE: least + more[0]}
    if not unbounded:
        targets[Priority.BATCH] = least + sum(more)
    limits = Limits(
        max_num_seqs=64,
        max_num_batched_tokens=8192,
        batch_wait_ms=0,
        max_queued_requests=1000,
        profile=Profile.LOW_TAIL,
        itl_target_ms=least,
        interactive_itl_target_ms=targets[Priority.INTERACTIVE],
        batch_itl_target_ms=targets.get(Priority.BATCH, 0),
        reserved_percent=reserved,
    )
    bench = Simulation(limits)
    bench.add("first", 10, 3)  # nothing is known of steps before these two
    bench.run()
    bench.add("second", 400, 1)
    bench.run()
    started_s = bench.now
    kinds = {f"r{number}": one for number, one in enumerate(coming)}
    bench.run(
        [
            (started_s + one.at_s, lambda name=name, one=one: bench.add(name, one.prompt, one.output, one.kind))
            for name, one in kinds.items()
        ]
    )
    assert all(stream.done for stream in bench.streams.values())
    for name, one in kinds.items():
        assert bench.streams[name].worst_gap_ms <= LEARNT * targets.get(one.kind, 1e9) + DECODES_MS
