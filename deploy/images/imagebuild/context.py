"""The build context: which files of the repository an image may see (`.dockerignore`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ignore:
    """The rules of a `.dockerignore`: the last one that matches a path or one of its parents decides."""

    rules: tuple[tuple[re.Pattern[str], bool], ...]

    @classmethod
    def parse(cls, text: str) -> Ignore:
        """Reads the file; a rule that begins with `!` takes paths back in."""
        lines = [line.strip() for line in text.splitlines()]
        wanted = [line for line in lines if line and not line.startswith("#")]
        return cls(tuple((_pattern(line.removeprefix("!").strip("/")), not line.startswith("!")) for line in wanted))

    def excludes(self, path: str) -> bool:
        """Whether a path relative to the context stays out of it."""
        parts = path.split("/")
        candidates = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        excluded = False
        for pattern, exclude in self.rules:
            if any(pattern.fullmatch(candidate) for candidate in candidates):
                excluded = exclude
        return excluded


@dataclass(frozen=True, slots=True)
class Context:
    """A folder and the rules that hide parts of it."""

    root: Path
    ignore: Ignore

    @classmethod
    def at(cls, root: Path) -> Context:
        """The context of a repository."""
        rules = root / ".dockerignore"
        return cls(root, Ignore.parse(rules.read_text() if rules.is_file() else ""))

    def tree(self, source: str) -> dict[str, Path]:
        """What a COPY of `source` takes: paths relative to it (`""` is a single file) and the files behind them."""
        relative = source.strip("/").removeprefix("./")
        top = self.root / relative
        if top.is_file():
            return {} if self.ignore.excludes(relative) else {"": top}
        found = (path for path in sorted(top.rglob("*")) if path.is_file() or path.is_symlink())
        return {
            str(path.relative_to(top)): path
            for path in found
            if not self.ignore.excludes(str(path.relative_to(self.root)))
        }


def _pattern(rule: str) -> re.Pattern[str]:
    text = ""
    for token in re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", rule):
        text += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(token) or re.escape(token)
    return re.compile(text)
