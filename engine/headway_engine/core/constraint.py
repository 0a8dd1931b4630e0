"""The form that an answer must have, as the engine's core sees it.

A `ConstraintSpec` is what the client asked for. `runtime/grammar.py` compiles it, off the step loop, to a `Constraint`: the
state of one answer, which says before each token what may come next, and is told what came.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt


class ConstraintKind(StrEnum):
    """How a form is written; the values are the wire's field names."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True)
class ConstraintSpec:
    """A form as asked for.

    Attributes:
        kind: how it is written.
        source: the schema's or the expression's text.
        choices: the answers that CHOICE allows.
    """

    kind: ConstraintKind
    source: str
    choices: tuple[str, ...] = ()


class ConstraintError(Exception):
    """The message names the field and what is wrong with it, or what an answer ran into."""


class Constraint(Protocol):
    """The state of one answer. Used by the step thread only."""

    def fill(self, mask: npt.NDArray[np.int32]) -> None:
        """Write which tokens may come next: bit i of word i // 32 for token i. All words are written.

        Raises:
            ConstraintError: a limit of the library was met.
        """

    def advance(self, token_id: int) -> None:
        """Take in the answer's next token.

        Raises:
            ConstraintError: it may not come here.
        """

    @property
    def complete(self) -> bool:
        """Nothing may follow but the end."""
