"""One engine on the CPU for `cpu_peers.py`: reads a number of requests per line, answers them at once, prints the seconds.

    python benchmarks/cpu_peer.py headway|headway-int8|vllm|llamacpp MODEL THREADS

It runs in the environment of its engine, so everything but the standard library is imported for that engine only. Prompts have
64 random tokens, answers 64 greedy ones; the end-of-sequence token ends none.
"""

import asyncio
import importlib
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

TOKENS, LONGEST_BATCH = 64, 16
VOCABULARY = 49152

Prompts = list[list[int]]


def main(engine: str, model: str, threads: int) -> None:
    """Serve the parent."""
    protocol = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between
    generate = ENGINES[engine](model, threads)
    chance = random.Random(0)  # noqa: S311 - a workload, not a secret
    prompts = [[chance.randrange(512, VOCABULARY) for _ in range(TOKENS)] for _ in range(LONGEST_BATCH)]
    generate(prompts[:2])
    generate(prompts)
    print("ready", file=protocol, flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        counts = generate(prompts[: int(line)])
        seconds = time.perf_counter() - began
        if counts != [TOKENS] * int(line):
            raise RuntimeError(f"answers of {counts} tokens")
        print(json.dumps(seconds), file=protocol, flush=True)


def headway(model: str, threads: int, dtype: str = "bfloat16") -> Callable[[Prompts], list[int]]:
    """Our engine with its step thread, queue and streams."""
    # As the engine's own command does.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from pathlib import Path  # noqa: PLC0415 - see the module

    import torch  # noqa: PLC0415

    from headway_engine.bench.beside_transformers import Headway  # noqa: PLC0415
    from headway_engine.runtime.config import EngineConfig  # noqa: PLC0415
    from headway_engine.runtime.engine import AsyncEngine  # noqa: PLC0415

    torch.set_num_threads(threads)
    config = EngineConfig(
        Path(model),
        device="cpu",
        dtype=dtype,
        threads=threads,
        prefix_cache=False,
        capacity_max_num_seqs=LONGEST_BATCH,
    )
    # In a thread: between two questions the engine must go on reading what its step process says.
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def start() -> Headway:
        return Headway(await AsyncEngine.start(config))

    runner = asyncio.run_coroutine_threadsafe(start(), loop).result()

    def generate(prompts: Prompts) -> list[int]:
        asked = [tuple(prompt) for prompt in prompts]
        answers = asyncio.run_coroutine_threadsafe(runner.generate(asked, TOKENS), loop).result()
        return [len(answer) for answer in answers]

    return generate


def vllm(model: str, threads: int) -> Callable[[Prompts], list[int]]:
    """The CPU build of vLLM, in this process."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    os.environ |= {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    peer = importlib.import_module("vllm")
    llm = peer.LLM(model, dtype="bfloat16", max_model_len=1024, enable_prefix_caching=False, max_num_seqs=LONGEST_BATCH)
    sampling = peer.SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True)

    def generate(prompts: Prompts) -> list[int]:
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        return [len(one.outputs[0].token_ids) for one in llm.generate(asked, sampling, use_tqdm=False)]

    return generate


def llamacpp(model: str, threads: int) -> Callable[[Prompts], list[int]]:
    """llama.cpp by its own batch interface: all prompts in one call, then one token of each answer a call."""
    ll = importlib.import_module("llama_cpp")
    ll.llama_backend_init()
    loaded = ll.llama_model_load_from_file(model.encode(), ll.llama_model_default_params())
    params = ll.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 4096, 2048, 512
    params.n_seq_max, params.n_threads, params.n_threads_batch = LONGEST_BATCH, threads, threads
    context = ll.llama_init_from_model(loaded, params)
    greedy = ll.llama_sampler_init_greedy()
    batch = ll.llama_batch_init(2048, 0, 1)

    def put(token: int, position: int, sequence: int, *, sample: bool) -> None:
        place = batch.n_tokens
        batch.token[place], batch.pos[place], batch.n_seq_id[place] = token, position, 1
        batch.seq_id[place][0], batch.logits[place] = sequence, sample
        batch.n_tokens += 1

    def decode() -> None:
        if ll.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")

    def generate(prompts: Prompts) -> list[int]:
        ll.llama_memory_clear(ll.llama_get_memory(context), True)
        batch.n_tokens = 0
        last = []
        for sequence, prompt in enumerate(prompts):
            for position, token in enumerate(prompt):
                put(token, position, sequence, sample=position == len(prompt) - 1)
            last.append(batch.n_tokens - 1)
        decode()
        counts = [0] * len(prompts)
        for step in range(TOKENS):
            tokens = [ll.llama_sampler_sample(greedy, context, place) for place in last]
            counts = [count + 1 for count in counts]
            if step == TOKENS - 1:
                break
            batch.n_tokens = 0
            for sequence, token in enumerate(tokens):
                put(token, TOKENS + step, sequence, sample=True)
            last = list(range(len(prompts)))
            decode()
        return counts

    return generate


ENGINES: dict[str, Callable[[str, int], Callable[[Prompts], list[int]]]] = {
    "headway": headway,
    "headway-int8": partial(headway, dtype="int8"),
    "vllm": vllm,
    "llamacpp": llamacpp,
}

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
