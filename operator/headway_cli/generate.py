"""`headway generate`: a prompt to one engine, the answer to standard output as it comes.

The engine continues text; a model tuned for chat answers a question only inside its chat template. So when the model
has one (`GetModelInfo.chat_template`), the prompt becomes a user message rendered with it, and `--raw` turns that off.
A plain system message goes along: small models answer better with it than with the name their template introduces.
"""

import argparse
import asyncio
import sys
from contextlib import aclosing
from pathlib import Path

from headway_cli import target
from headway_cli.errors import CliError
from headway_gateway import chat
from headway_gateway.classes import CLASSES
from headway_rpc import pb
from headway_rpc.client import EngineClient, EngineError

CONNECT_TIMEOUT_S = 10.0


def command(options: argparse.Namespace) -> int:
    """Run it; returns the exit code."""
    try:
        complete = asyncio.run(_generate(options))
    except EngineError as error:
        raise CliError(str(error)) from None
    except UnicodeEncodeError:
        raise CliError("PROMPT, or the text of a flag, is not in the encoding of this terminal") from None
    if options.stats:
        print(stats_line(complete), file=sys.stderr)
    if complete.finish_reason == pb.ERROR:
        raise CliError(f"the engine failed on this request: {complete.error}")
    return 0


async def _generate(options: argparse.Namespace) -> pb.GenerateComplete:
    prompt = _stdin() if options.prompt == "-" else options.prompt
    if not prompt.strip():
        raise CliError("PROMPT must not be empty")
    async with target.address(options) as address, EngineClient(address) as client:
        await client.wait_ready(CONNECT_TIMEOUT_S)
        template = "" if options.raw else (await client.model_info()).chat_template
        text = render_chat(template, prompt, options.system) if template else prompt
        kind = CLASSES[options.workload_class] if options.workload_class else pb.PRIORITY_UNSPECIFIED
        request = pb.GenerateRequest(text=text, sampling_params=sampling(options), priority=kind)
        async with aclosing(client.generate(request, options.timeout)) as answer:
            async for message in answer:
                sys.stdout.write(message.text)
                sys.stdout.flush()
                if isinstance(message, pb.GenerateComplete):
                    sys.stdout.write("\n")
                    return message
    raise CliError("the engine ended the answer without completing it")


def _stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise CliError(f"PROMPT on standard input is no text: {error}") from None


def sampling(options: argparse.Namespace) -> pb.SamplingParams:
    """What the flags say; what they do not say is the engine's default.

    Raises:
        CliError: the file of the schema cannot be read, or a number does not fit its field; its range is the engine's to check.
    """
    for name, bits in (("max_tokens", 32), ("seed", 64)):
        value = getattr(options, name)
        if value is not None and not 0 <= value < 2**bits:
            raise CliError(f"--{name.replace('_', '-')} must be 0 to {2**bits - 1}, got {value}")
    params = pb.SamplingParams(
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        stop=options.stop,
        choice=pb.Choices(texts=options.choice) if options.choice else None,
    )
    if options.regex is not None:
        params.regex = options.regex
    if options.json_schema is not None:
        try:
            params.json_schema = Path(options.json_schema).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CliError(f"--json-schema {options.json_schema}: {error}") from None
    return params


def render_chat(template: str, prompt: str, system: str | None) -> str:
    """One user message (and a system message) in the model's own format, ready for the answer."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    try:
        return chat.render(template, messages)
    except chat.ChatError as error:
        raise CliError(f"{error}; try --raw") from None


def stats_line(complete: pb.GenerateComplete) -> str:
    """Counts and times of one answer."""
    reason = pb.FinishReason.Name(complete.finish_reason).lower()
    return (
        f"{complete.prompt_tokens} prompt tokens, {complete.completion_tokens} generated, {reason};"
        f" queue {complete.queue_ms:.1f} ms, first token {complete.ttft_ms:.1f} ms"
    )
