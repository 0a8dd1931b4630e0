"""Layers: their stacking, their digests, their tars."""

import os
import tarfile
from pathlib import Path

import pytest
from imagebuild import layertar, trees

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="making a whiteout takes root")


def fill(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def whiteout(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, 0o020000, os.makedev(0, 0))


def files(tree: dict[str, Path]) -> dict[str, str]:
    return {name: path.read_text() for name, path in tree.items() if path.is_file()}


def entries(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        return tar.getnames()


def test_the_upper_layer_wins(tmp_path: Path) -> None:
    low = fill(tmp_path / "low", {"app/a": "1", "app/b": "1"})
    high = fill(tmp_path / "high", {"app/b": "2", "app/c": "2"})
    assert files(trees.merged([low, high], "/app")) == {"a": "1", "b": "2", "c": "2"}
    assert files(trees.merged([low, high], "/app/b")) == {"": "2"}


@needs_root
def test_a_whiteout_hides_a_file_a_folder_and_what_lies_below_a_parent(tmp_path: Path) -> None:
    low = fill(tmp_path / "low", {"app/a": "1", "app/d/x": "1", "app/keep": "1"})
    high = tmp_path / "high"
    whiteout(high / "app/a")
    whiteout(high / "app/d")
    assert files(trees.merged([low, high], "app")) == {"keep": "1"}
    whiteout(tmp_path / "top" / "app")
    assert trees.merged([low, tmp_path / "top"], "app/d") == {}


@needs_root
def test_an_opaque_folder_hides_what_it_replaces(tmp_path: Path) -> None:
    low = fill(tmp_path / "low", {"app/d/old": "1"})
    high = fill(tmp_path / "high", {"app/d/new": "2"})
    try:
        os.setxattr(high / "app/d", trees.OPAQUE, b"y")
    except OSError:
        pytest.skip("this file system has no trusted attributes")
    assert files(trees.merged([low, high], "app")) == {"d/new": "2"}
    assert files(trees.merged([low, high], "app/d")) == {"new": "2"}


def test_a_digest_depends_on_names_contents_and_the_executable_bit_only(tmp_path: Path) -> None:
    tree = {"x": fill(tmp_path, {"x": "1"}) / "x"}
    first = trees.digest(tree)
    os.utime(tmp_path / "x", (5, 5))
    (tmp_path / "x").chmod(0o600)
    assert trees.digest(tree) == first
    (tmp_path / "x").chmod(0o700)
    assert trees.digest(tree) != first
    assert trees.digest({"y": tmp_path / "x"}) != trees.digest(tree)


def test_a_copy_from_the_context_is_never_a_link_to_it(tmp_path: Path) -> None:
    source = fill(tmp_path / "src", {"x": "1"}) / "x"
    trees.place({"x": source}, tmp_path / "copied", link=False)
    trees.place({"x": source}, tmp_path / "linked", link=True)
    source.write_text("changed")
    assert (tmp_path / "copied/x").read_text() == "1"
    assert (tmp_path / "linked/x").read_text() == "changed"


def test_equal_content_gives_equal_bytes_at_any_time(tmp_path: Path) -> None:
    blobs = []
    for name, age in (("one", 1000), ("two", 2000)):
        folder = fill(tmp_path / name, {"b": "2", "a/x": "1"})
        for path in folder.rglob("*"):
            os.utime(path, (age, age))
        blobs.append(layertar.write_layer(folder, tmp_path / f"{name}.tar"))
    assert blobs[0] == blobs[1]
    assert blobs[0].digest.startswith("sha256:")
    assert blobs[0].size == (tmp_path / "one.tar").stat().st_size
    assert entries(tmp_path / "one.tar") == ["a", "a/x", "b"]


def test_a_layer_without_changes_has_no_blob(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert layertar.write_layer(tmp_path / "empty", tmp_path / "x.tar") == layertar.LayerBlob("", 0)
    assert not (tmp_path / "x.tar").exists()


def test_links_stay_links_in_the_tar(tmp_path: Path) -> None:
    folder = fill(tmp_path / "layer", {"a": "1"})
    (folder / "soft").symlink_to("a")
    os.link(folder / "a", folder / "hard")
    layertar.write_layer(folder, tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar") as tar:
        found = {member.name: (member.type, member.linkname) for member in tar}
    assert found == {"a": (tarfile.REGTYPE, ""), "hard": (tarfile.LNKTYPE, "a"), "soft": (tarfile.SYMTYPE, "a")}


@needs_root
def test_a_deletion_becomes_a_whiteout_entry(tmp_path: Path) -> None:
    whiteout(tmp_path / "layer/etc/motd")
    whiteout(tmp_path / "layer/top")
    layertar.write_layer(tmp_path / "layer", tmp_path / "x.tar")
    assert entries(tmp_path / "x.tar") == ["etc", "etc/.wh.motd", ".wh.top"]
