"""What an answer says of its prompt over real gRPC, with the real scheduler: tokens found in the prefix cache, tokens cut out."""

from dataclasses import replace

from fake_engine_model import QuickExecutor, config, loaded
from loopback import served

from headway_engine.core.prompt_policy import PromptPolicy
from headway_engine.runtime.engine import AsyncEngine
from headway_engine.server.metrics import renderer
from headway_rpc import pb
from headway_rpc.client import EngineClient

PROMPT = list(range(65, 65 + 30))  # seven blocks of 4, and two tokens


async def complete(client: EngineClient, ids: list[int], salt: str = "") -> pb.GenerateComplete:
    request = pb.GenerateRequest(
        tokenized=pb.TokenizedInput(input_ids=ids),
        sampling_params=pb.SamplingParams(max_tokens=3, ignore_eos=True),
        cache_salt=salt,
    )
    messages = [message async for message in client.generate(request)]
    last = messages[-1]
    assert isinstance(last, pb.GenerateComplete)
    return last


async def test_tokens_found_in_the_prefix_cache_are_in_the_answer_and_in_the_metrics() -> None:
    engine = AsyncEngine.embed(config(), loaded(QuickExecutor()))
    async with served(engine) as address, EngineClient(address) as client:
        found = [(await complete(client, PROMPT, salt)).cached_tokens for salt in ("", "", "tenant", "tenant")]
        assert found == [0, 28, 0, 28]
        text = renderer(engine.stats, "m")().decode()
        assert 'headway_engine_prompt_tokens_total{model_name="m"} 120.0' in text
        assert 'headway_engine_prefix_cache_hits_total{model_name="m"} 56.0' in text


async def test_tokens_cut_out_of_a_prompt_are_in_the_answer() -> None:
    setup = replace(config(), prompt_policy=PromptPolicy.TRUNCATE_MIDDLE)
    engine = AsyncEngine.embed(setup, loaded(QuickExecutor(), max_model_len=20))
    async with served(engine) as address, EngineClient(address) as client:
        short, long = await complete(client, PROMPT[:17]), await complete(client, PROMPT)
    assert (short.prompt_tokens, short.truncated_tokens) == (17, 0)
    assert (long.prompt_tokens, long.truncated_tokens, long.completion_tokens) == (17, 13, 3)
