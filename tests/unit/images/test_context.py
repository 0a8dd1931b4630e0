"""What a COPY may see of the repository."""

from pathlib import Path

import pytest
from imagebuild.context import Context, Ignore

ALLOW_LIST = "*\n!engine\n!deploy/images/*.py\n**/__pycache__\n**/*.pyc\n"


@pytest.mark.parametrize(
    ("path", "excluded"),
    [
        ("secret.txt", True),
        (".git/config", True),
        ("engine/a/b.py", False),
        ("engine/a/__pycache__/b.pyc", True),
        ("engine/c.pyc", True),
        ("deploy/images/slim.py", False),
        ("deploy/images/imagebuild/cli.py", True),
        ("engineering/plan.md", True),
    ],
)
def test_the_last_rule_that_matches_decides(path: str, excluded: bool) -> None:
    assert Ignore.parse(ALLOW_LIST).excludes(path) is excluded


def test_a_folder_is_listed_without_what_is_ignored(tmp_path: Path) -> None:
    for name in ("engine/a.py", "engine/sub/b.py", "engine/__pycache__/a.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".dockerignore").write_text(ALLOW_LIST)
    context = Context.at(tmp_path)
    assert sorted(context.tree("engine")) == ["a.py", "sub/b.py"]
    assert context.tree("engine/a.py") == {"": tmp_path / "engine/a.py"}
    assert context.tree("missing") == {}
