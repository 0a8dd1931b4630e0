"""Parsing the Dockerfile subset."""

import pytest
from imagebuild import dockerfile
from imagebuild.dockerfile import Instruction
from imagebuild.errors import BuildError


def instruction(name: str, text: str) -> Instruction:
    return Instruction(name, text, 1)


def test_stages_take_what_follows_their_from() -> None:
    parsed = dockerfile.parse("ARG A=1\nFROM x AS one\nRUN a\nFROM one\nUSER 5\n")
    assert [i.text for i in parsed.arguments] == ["A=1"]
    assert [(s.name, s.base, [i.name for i in s.body]) for s in parsed.stages] == [
        ("one", "x", ["RUN"]),
        ("1", "one", ["USER"]),
    ]


def test_continued_lines_are_joined_and_comments_between_them_dropped() -> None:
    parsed = dockerfile.parse("FROM x\nRUN a \\\n  # why\n  && b\n\n# end\nUSER 1\n")
    assert [(i.name, i.text, i.line) for i in parsed.stages[0].body] == [("RUN", "a && b", 2), ("USER", "1", 7)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FROM x\nHEALTHCHECK NONE\n", "line 2: HEALTHCHECK is not supported"),
        ("RUN a\n", "line 1: RUN before the first FROM"),
        ("", "has no FROM"),
        ("FROM x y z w\n", "line 1: FROM wants IMAGE [AS NAME]"),
        ("FROM x\nRUN a \\\n", "line 2: the file ends inside a continued line"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(BuildError) as refused:
        dockerfile.parse(text)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("deps-${DEVICE}", "deps-cpu"),
        ("$DEVICE/x", "cpu/x"),
        ("${NONE:-later}", "later"),
        ("a${NONE}b", "ab"),
        ("${EMPTY:-set}", "set"),
        ("no variable", "no variable"),
    ],
)
def test_variables_are_replaced_as_docker_does(text: str, expected: str) -> None:
    assert dockerfile.substitute(text, {"DEVICE": "cpu", "EMPTY": ""}) == expected


def test_environment_pairs_keep_quoted_spaces() -> None:
    assert dockerfile.parse_pairs(instruction("ENV", 'A="x y"   B=2')) == {"A": "x y", "B": "2"}
    with pytest.raises(BuildError, match="wants NAME=value"):
        dockerfile.parse_pairs(instruction("ENV", "A 2"))


def test_an_entrypoint_must_not_need_a_shell() -> None:
    assert dockerfile.parse_command(instruction("ENTRYPOINT", '["a", "-b"]')) == ("a", "-b")
    for text in ("a -b", "[1]", '{"a": 1}'):
        with pytest.raises(BuildError, match="must be a JSON list of strings"):
            dockerfile.parse_command(instruction("ENTRYPOINT", text))


def test_copy_names_its_stage_sources_and_target() -> None:
    parsed = dockerfile.parse_copy(instruction("COPY", "--from=deps /a /b /c/"))
    assert (parsed.stage, parsed.sources, parsed.target) == ("deps", ("/a", "/b"), "/c/")


@pytest.mark.parametrize("text", ["--chmod=755 a b", "a", "a b c"])
def test_copy_refuses_what_it_would_do_differently_from_docker(text: str) -> None:
    with pytest.raises(BuildError):
        dockerfile.parse_copy(instruction("COPY", text))


def test_run_takes_cache_mounts_and_no_others() -> None:
    command, mounts = dockerfile.parse_run(
        instruction("RUN", "--mount=type=cache,id=uv,target=/c --mount=type=cache,target=/var/x a && b")
    )
    assert command == "a && b"
    assert [(m.id, m.target) for m in mounts] == [("uv", "/c"), ("var-x", "/var/x")]
    for text in ("--mount=type=secret,id=k a", "--network=none a"):
        with pytest.raises(BuildError, match="type=cache"):
            dockerfile.parse_run(instruction("RUN", text))
