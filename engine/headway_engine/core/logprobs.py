"""How likely a token was: the sampled one, and those that the model would have preferred.

The numbers are the logarithms of the model's own distribution, before temperature, penalties, biases and grammars: they
compare between requests that sample differently.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that could come next.

    Attributes:
        token_id: the token.
        logprob: natural logarithm of its probability.
        text: the token alone, decoded; U+FFFD where it is part of a character. "" until the answer's stream fills it in.
    """

    token_id: int
    logprob: float
    text: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A sampled token among its candidates.

    Attributes:
        chosen: the sampled token.
        top: the most probable tokens, best first, as many as were asked for.
    """

    chosen: Candidate
    top: tuple[Candidate, ...]
