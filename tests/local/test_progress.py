"""The progress line in virtual time."""

import io

from localcluster.progress import Progress, elapsed


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_elapsed_is_minutes_and_seconds() -> None:
    assert [elapsed(s) for s in (0, 59.9, 61, 3700)] == ["0:00", "0:59", "1:01", "61:40"]


def test_a_log_gets_a_whole_line_every_15_seconds() -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress(out, tty=False, clock=clock)
    progress.start("[1/2] kubernetes")
    for _ in range(40):
        clock.now += 1
        progress.tick("k8s.io/api")
    progress.done()
    assert out.getvalue().splitlines() == [
        "[1/2] kubernetes ... 0:00",
        "[1/2] kubernetes ... 0:15  k8s.io/api",
        "[1/2] kubernetes ... 0:30  k8s.io/api",
        "[1/2] kubernetes: done in 0:40",
    ]


def test_a_terminal_gets_one_line_rewritten_in_place_without_remains_of_a_longer_one() -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress(out, tty=True, clock=clock)
    progress.start("x")
    clock.now = 1.0
    progress.tick("a long package name")
    progress.tick()
    progress.done()
    assert out.getvalue().count("\n") == 1
    screen = out.getvalue().split("\r")
    assert screen[2] == "x ... 0:01  a long package name"
    assert len(screen[3]) == len(screen[2])


def test_a_failure_ends_the_line() -> None:
    out = io.StringIO()
    progress = Progress(out, tty=False, clock=Clock())
    progress.start("x")
    progress.failed()
    assert out.getvalue().endswith("x: failed after 0:00\n")
