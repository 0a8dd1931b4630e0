"""The gateway as the how-to runs it: the page's own manifests, an OpenAI client, a real model."""

import asyncio
import json
import re
from typing import Any

import openai
import pytest
import steps
import yaml
from fleets import SERVES_S

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NAME = "smollm2"
PAGE = steps.ROOT / "docs/how-to/use-an-openai-client.md"


def page_objects(namespace: str) -> list[dict[str, Any]]:
    """The manifests of the page for this namespace, with the image that the operator runs."""
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    operator = steps.get("deployment", "-n", steps.SYSTEM_NAMESPACE)["items"][0]
    image = operator["spec"]["template"]["spec"]["containers"][0]["image"]
    text = block.replace("registry.example.com/headway-operator:0.1.0", image)
    return list(yaml.safe_load_all(text.replace("demo", namespace)))


def test_an_openai_client_gets_a_streamed_answer_from_a_fleet(served: tuple[str, str]) -> None:
    _, namespace = served
    for one in page_objects(namespace):
        steps.run(["kubectl", "apply", "--server-side", "-f", "-"], stdin=json.dumps(one))
    rollout = ["kubectl", "rollout", "status", "deployment/openai", "-n", namespace, f"--timeout={SERVES_S:.0f}s"]
    steps.run(rollout, timeout_s=SERVES_S + 30)
    [pod] = steps.get("pods", "-n", namespace, "-l", "app=openai")["items"]
    answer = asyncio.run(_ask(f"http://{pod['status']['podIP']}:8000/v1"))
    assert "Paris" in answer


async def _ask(url: str) -> str:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == [NAME]
        question = {"role": "user", "content": "The capital of France is"}
        with pytest.raises(openai.BadRequestError, match="x-headway-class must be one of realtime, interactive, batch"):
            await client.chat.completions.create(
                model=NAME, messages=[question], extra_headers={"x-headway-class": "urgent"}
            )
        stream = await client.chat.completions.create(
            model=NAME,
            messages=[
                {"role": "system", "content": "You are a helpful assistant."},
                question,
            ],
            max_tokens=16,
            temperature=0,
            stream=True,
        )
        return "".join([piece.choices[0].delta.content or "" async for piece in stream])
