"""Every relative link of every page leads somewhere, to the heading it names included; so does a page that code names."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
_NOT_OURS = {".venv", ".tools", ".git", "node_modules", "shared"}
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_NAMED = re.compile(r"\b(docs/[\w/-]+\.md)(?:#([\w-]+))?")  # in code, where a page is named from the root
_RESULT = re.compile(r"\b[a-z][\w.-]*-\d{8}T\d{6}Z\.jsonl")


def markdown_files() -> list[Path]:
    """Every page."""
    return _files("*.md")


def _files(*patterns: str) -> list[Path]:
    """Every such file that git knows, in an archive every one but those of tools and environments."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0 and listed.stdout:
        return sorted(path for name in listed.stdout.split("\0") if name and (path := ROOT / name).exists())
    # An unpacked archive has no git.
    found = (path for pattern in patterns for path in ROOT.rglob(pattern))
    return sorted(path for path in found if not _NOT_OURS.intersection(path.relative_to(ROOT).parts))


def _links(page: Path) -> list[str]:
    found = _LINK.findall(_FENCE.sub("", page.read_text()))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def _anchors(page: Path) -> set[str]:
    headings = _HEADING.findall(_FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", markdown_files(), ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    broken = []
    for link in _links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in _anchors(target)):
            broken.append(link)

    assert broken == []


def test_pages_that_code_names_exist_with_their_headings() -> None:
    named = {
        (path, page, anchor)
        for path in _files("*.py", "*.csv", "*.yaml", "*.proto", "*.c", "*.md", "Makefile")
        for page, anchor in _NAMED.findall(path.read_text(errors="replace"))
    }
    broken = [
        f"{path.relative_to(ROOT)}: {page}#{anchor}"
        for path, page, anchor in named
        if not (ROOT / page).exists() or (anchor and anchor not in _anchors(ROOT / page))
    ]

    assert len(named) > 20
    assert broken == []


def test_results_that_pages_name_are_kept() -> None:
    kept = {path.name for path in (ROOT / "benchmarks/results").iterdir()}

    named = {(page.name, result) for page in markdown_files() for result in _RESULT.findall(page.read_text())}

    assert named
    assert {(page, result) for page, result in named if result not in kept} == set()


def test_every_page_under_docs_is_reached_from_the_index() -> None:
    index = ROOT / "docs/README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in _links(index)}

    unreached = {page for page in markdown_files() if ROOT / "docs" in page.parents} - linked - {index}

    assert unreached == set()
