"""The registry folder: content names, manifests, archives, and images that a container engine saved."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from imagebuild import engines, oci
from imagebuild.errors import BuildError
from imagebuild.layertar import LayerBlob
from imagebuild.oci import ImageConfig

REPOSITORY = "registry.example/headway-engine"


def layer(registry: Path, content: bytes) -> LayerBlob:
    return LayerBlob(oci.put_bytes(registry, content), len(content))


def test_the_tag_is_the_content(tmp_path: Path) -> None:
    config = ImageConfig(env={"A": "1"}, user="65532", entrypoint=("run",), ports=("8081",))
    first = oci.publish(tmp_path, REPOSITORY, config, (layer(tmp_path, b"one"),))
    assert oci.publish(tmp_path, REPOSITORY, config, (layer(tmp_path, b"one"),)) == first
    assert oci.publish(tmp_path, REPOSITORY, config, (layer(tmp_path, b"two"),)).name != first.name
    assert first.name == f"{REPOSITORY}:{first.digest[7:19]}"
    assert oci.manifest_digest(tmp_path, first.name) == first.digest
    assert oci.manifest_digest(tmp_path, f"{REPOSITORY}:none") is None


def test_a_manifest_names_blobs_that_are_there(tmp_path: Path) -> None:
    image = oci.publish(tmp_path, REPOSITORY, ImageConfig(user="65532:65532", ports=("1",)), (layer(tmp_path, b"one"),))
    manifest = json.loads(oci.blob_path(tmp_path, image.digest).read_bytes())
    for blob in (manifest["config"], *manifest["layers"]):
        content = oci.blob_path(tmp_path, blob["digest"]).read_bytes()
        assert (len(content), f"sha256:{hashlib.sha256(content).hexdigest()}") == (blob["size"], blob["digest"])
    config = json.loads(oci.blob_path(tmp_path, manifest["config"]["digest"]).read_bytes())
    assert config["config"]["User"] == "65532:65532"
    assert config["config"]["ExposedPorts"] == {"1/tcp": {}}
    assert config["rootfs"]["diff_ids"] == [manifest["layers"][0]["digest"]]


def test_an_archive_brings_an_image_into_another_folder(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    image = oci.publish(here, REPOSITORY, ImageConfig(), (layer(here, b"one"), layer(here, b"two")))
    oci.write_archive(here, [image], tmp_path / "image.tar")
    assert engines.import_archive(tmp_path / "image.tar", there, REPOSITORY) == image
    assert sorted(p.name for p in (there / "blobs/sha256").iterdir()) == sorted(
        p.name for p in (here / "blobs/sha256").iterdir()
    )


def test_an_index_in_the_index_is_followed_past_the_attestation(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    image = oci.publish(here, REPOSITORY, ImageConfig(), (layer(here, b"one"),))
    architecture = json.loads(
        oci.blob_path(here, json.loads(oci.blob_path(here, image.digest).read_bytes())["config"]["digest"]).read_bytes()
    )["architecture"]
    attestation = oci.put_bytes(here, b"{}")
    inner = oci.put_bytes(
        here,
        json.dumps(
            {
                "manifests": [
                    {"digest": attestation, "platform": {"architecture": "unknown", "os": "unknown"}},
                    {"digest": image.digest, "platform": {"architecture": architecture, "os": "linux"}},
                ]
            }
        ).encode(),
    )
    with tarfile.open(tmp_path / "image.tar", "w") as tar:
        content = json.dumps({"manifests": [{"digest": inner}]}).encode()
        info = tarfile.TarInfo("index.json")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
        tar.add(here / "blobs", "blobs")
    assert engines.import_archive(tmp_path / "image.tar", there, REPOSITORY).digest == image.digest


def test_an_engine_that_saves_no_oci_layout_is_refused_with_the_cure(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "old.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("manifest.json"))
    with pytest.raises(BuildError, match="docker before 25"):
        engines.import_archive(tmp_path / "old.tar", tmp_path, REPOSITORY)


def test_a_client_without_its_daemon_is_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "docker"
    command.write_text("#!/bin/sh\nexit 1\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert not engines.works("docker")
    assert not engines.works("no-such-engine")
    command.write_text("#!/bin/sh\nexit 0\n")
    assert engines.works("docker")
