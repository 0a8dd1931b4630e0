"""What becomes of a prompt that is longer than the model takes."""

from enum import StrEnum

UNASKED_ANSWER = 4  # part of prompt and answer together that an answer of unknown length gets


class PromptPolicy(StrEnum):
    """REJECT refuses it. The others cut tokens out: from the beginning, from the end, or around the middle."""

    REJECT = "reject"
    TRUNCATE_LEFT = "truncate-left"
    TRUNCATE_RIGHT = "truncate-right"
    TRUNCATE_MIDDLE = "truncate-middle"


def shorten(ids: tuple[int, ...], max_len: int, max_tokens: int | None, policy: PromptPolicy) -> tuple[int, ...]:
    """The prompt, shortened if it leaves no room for even one token of the answer.

    Then it keeps what the answer asked for leaves, but half of all at least: a request that asks for more than the model has
    still gets an answer to something. Of a prompt cut in the middle the beginning and the end stay, half each.

    Args:
        ids: its tokens.
        max_len: tokens of prompt and answer together.
        max_tokens: of the answer; None when the request did not say: a quarter of all.
        policy: where to cut; REJECT leaves the prompt as it is.
    """
    if len(ids) < max_len or policy is PromptPolicy.REJECT:
        return ids
    answer = max_tokens or max(1, max_len // UNASKED_ANSWER)
    keep = max(1, max_len - min(answer, max_len // 2))
    match policy:
        case PromptPolicy.TRUNCATE_LEFT:
            return ids[-keep:]
        case PromptPolicy.TRUNCATE_RIGHT:
            return ids[:keep]
        case PromptPolicy.TRUNCATE_MIDDLE:
            end = keep // 2
            return ids[: keep - end] + ids[len(ids) - end :]
