"""A chat as one prompt: the messages rendered with the model's own template."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template

KEPT = 32  # compiled templates


class ChatError(ValueError):
    """The template cannot render these messages; the message says why."""


def render(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """The prompt, ready for the assistant's answer.

    Args:
        template: Jinja, as `GetModelInfo.chat_template` has it.
        messages: each with `role` and `content`.

    Raises:
        ChatError: the template is broken or refuses the messages; jinja2 is missing.
    """
    try:
        from jinja2 import TemplateError  # noqa: PLC0415 - `headway generate --raw` does without
    except ModuleNotFoundError:
        raise ChatError("the model has a chat template, which needs jinja2") from None
    try:
        return _compiled(template).render(messages=messages, add_generation_prompt=True, bos_token="", eos_token="")
    except TemplateError as error:
        raise ChatError(f"the model's chat template cannot be rendered: {error}") from None


@lru_cache(maxsize=KEPT)
def _compiled(template: str) -> "Template":
    """Compiled once: that takes milliseconds, which every stream of a gateway would wait for at each chat."""
    from jinja2 import TemplateError  # noqa: PLC0415 - as above
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415 - as above

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    # The template comes from the model's files: it is rendered in a sandbox.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(template)
