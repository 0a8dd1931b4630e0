"""Traffic for a `fleet_world.World`: engines that take longer for a step the more sequences share it.

A step costs `host_ms + seq_ms * sequences`, plus `prompt_ms` for each request that begins in it. That is enough for the
control loops: more sequences mean more tokens per second, longer gaps between tokens, and a queue beyond the cap.
"""

from dataclasses import dataclass, field

from fleet_world import Engine, World

from headway_operator.core.observed import ClassSample

PROMPT = 24  # tokens of every prompt


@dataclass
class _Request:
    arrived_s: float
    left: int
    began_s: float | None = None


@dataclass
class _Queue:
    clock_s: float
    waiting: list[_Request] = field(default_factory=list)
    running: list[_Request] = field(default_factory=list)


@dataclass
class Traffic:
    """An open-loop load. Set `rate` (requests/s) and `tokens` (per answer) at any time; `kind`: the class of all requests."""

    world: World
    rate: float = 0.0
    tokens: int = 32
    host_ms: float = 40.0
    seq_ms: float = 12.0
    prompt_ms: float = 60.0
    queues: dict[str, _Queue] = field(default_factory=dict)
    owed: float = 0.0
    turn: int = 0
    cut: int = 0
    kind: str = ""

    def second(self) -> None:
        """One second of arrivals and steps, then one pass of the operator."""
        world = self.world
        self.owed += self.rate
        ready = world.ready()
        while self.owed >= 1:
            self.owed -= 1
            if ready:
                name = ready[self.turn % len(ready)]
                self.turn += 1
                world.engines[name].received += 1
                self._queue(name).waiting.append(_Request(world.now_s, self.tokens))
        for name, engine in world.engines.items():
            self._serve(engine, self._queue(name), world.now_s + 1)
        for name in [name for name in self.queues if name not in world.engines]:
            queue = self.queues.pop(name)
            self.cut += len(queue.waiting) + len(queue.running)
        world.step(1.0)

    def _queue(self, name: str) -> _Queue:
        return self.queues.setdefault(name, _Queue(self.world.now_s))

    def _serve(self, engine: Engine, queue: _Queue, until_s: float) -> None:
        cap = engine.effective.max_num_seqs or 1
        while queue.clock_s < until_s:
            began = []
            while queue.waiting and len(queue.running) < cap:
                request = queue.waiting.pop(0)
                request.began_s = queue.clock_s
                engine.record("queue_wait", 1000 * max(0.0, queue.clock_s - request.arrived_s))
                queue.running.append(request)
                began.append(request)
            if not queue.running:
                queue.clock_s = until_s
                break
            step_ms = self.host_ms + self.seq_ms * len(queue.running) + self.prompt_ms * len(began)
            queue.clock_s += step_ms / 1000
            engine.steps += 1
            engine.step_ms += step_ms
            engine.prompt_tokens += PROMPT * len(began)
            for request in queue.running:
                request.left -= 1
                engine.tokens += 1
                if request in began:
                    engine.record("prefill", step_ms)
                    engine.record("ttft", 1000 * max(0.001, queue.clock_s - request.arrived_s))
                else:
                    engine.record("itl", step_ms)
            finished = [request for request in queue.running if request.left <= 0]
            engine.finished += len(finished)
            deadline_s = (engine.effective.batch_deadline_ms or 0) / 1000
            engine.late += sum(0 < deadline_s < queue.clock_s - request.arrived_s for request in finished)
            queue.running = [request for request in queue.running if request.left > 0]
        engine.running, engine.waiting = len(queue.running), len(queue.waiting)
        engine.waiting_prompt_tokens = PROMPT * len(queue.waiting)
        if self.kind:
            engine.waiting_batch = engine.waiting if self.kind == "batch" else 0
            engine.classes = {self.kind: _all_of(engine)}


def _all_of(engine: Engine) -> ClassSample:
    """Everything that an engine counted, as of one class."""
    return ClassSample(
        ttft=tuple(engine.ttft),
        queue_wait=tuple(engine.queue_wait),
        itl=tuple(engine.itl),
        admitted=engine.received,
        finished=engine.finished,
        late=engine.late,
        prompt_tokens_admitted=PROMPT * engine.received,
        prompt_tokens=engine.prompt_tokens,
    )
