"""The read-only registry, over a folder and over HTTP on the loopback."""

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from localcluster import ocifolder, registry
from localcluster.ocifolder import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    layer = tmp_path / "layer.tar"
    layer.write_bytes(bytes(range(256)) * 64)
    ocifolder.publish(tmp_path / "oci", Image("team/app", "1", layer, entrypoint=("/app",), user="65535"))
    (tmp_path / "oci" / "secret").write_text("no")
    return tmp_path / "oci"


@pytest.fixture
def connection(folder: Path) -> Iterator[http.client.HTTPConnection]:
    server = registry.serve(folder, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    client = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    yield client
    client.close()
    server.shutdown()
    thread.join()
    server.server_close()


def _get(client: http.client.HTTPConnection, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    client.request("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    response = client.getresponse()
    return response, response.read()


def test_a_client_gets_from_the_tag_to_the_bytes_of_the_layer(
    connection: http.client.HTTPConnection, folder: Path
) -> None:
    assert _get(connection, "/v2/")[0].status == 200
    response, body = _get(connection, "/v2/team/app/manifests/1")
    manifest = json.loads(body)
    assert response.headers["Docker-Content-Digest"].startswith("sha256:")
    assert response.headers["Content-Type"] == manifest["mediaType"]
    config = json.loads(_get(connection, f"/v2/team/app/blobs/{manifest['config']['digest']}")[1])
    assert config["config"]["Entrypoint"] == ["/app"]
    assert config["rootfs"]["diff_ids"] == [manifest["layers"][0]["digest"]]
    layer = _get(connection, f"/v2/team/app/blobs/{manifest['layers'][0]['digest']}")[1]
    assert layer == ocifolder.blob(folder, manifest["layers"][0]["digest"]).read_bytes()


def test_a_broken_off_pull_goes_on_where_it_stopped(connection: http.client.HTTPConnection) -> None:
    layer = json.loads(_get(connection, "/v2/team/app/manifests/1")[1])["layers"][0]
    response, body = _get(connection, f"/v2/team/app/blobs/{layer['digest']}", Range="bytes=16380-")
    assert response.status == 206
    assert response.headers["Content-Range"] == "bytes 16380-16383/16384"
    assert body == bytes([252, 253, 254, 255])


def test_head_says_what_get_would_send_without_the_body(connection: http.client.HTTPConnection) -> None:
    connection.request("HEAD", "/v2/team/app/manifests/1")
    response = connection.getresponse()
    assert response.read() == b""
    assert int(response.headers["Content-Length"]) > 0
    assert _get(connection, "/v2/")[0].status == 200  # the connection is still usable


@pytest.mark.parametrize(
    "path",
    [
        "/v2/team/app/manifests/2",
        "/v2/team/app/blobs/sha256:" + "0" * 64,
        "/v2/../manifests/secret",
        "/v2/x/../../manifests/secret",
        "/v2/team/app/manifests/..",
        "/v2/team/app/blobs/1",
        "/secret",
    ],
)
def test_what_is_not_an_image_is_not_found(connection: http.client.HTTPConnection, path: str) -> None:
    response, body = _get(connection, path)
    assert response.status == 404
    assert json.loads(body)["errors"][0]["code"] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        ("bytes=0-9", (0, 10)),
        ("bytes=5-", (5, 100)),
        ("bytes=90-500", (90, 100)),
        ("bytes=100-", None),
        ("bytes=-5", None),
    ],
)
def test_byte_ranges(header: str | None, part: tuple[int, int] | None) -> None:
    assert registry.byte_range(header, 100) == part


def test_an_image_is_there_only_with_its_manifest(folder: Path) -> None:
    assert ocifolder.has(folder, "team/app", "1")
    assert not ocifolder.has(folder, "team/app", "2")
    digest = (folder / "manifests/team/app/1").read_text()
    ocifolder.blob(folder, digest).unlink()
    assert not ocifolder.has(folder, "team/app", "1")


def test_publishing_again_changes_nothing_and_leaves_no_partial_file(folder: Path, tmp_path: Path) -> None:
    before = sorted(p.name for p in folder.rglob("*"))
    ocifolder.publish(folder, Image("team/app", "1", tmp_path / "layer.tar", entrypoint=("/app",), user="65535"))
    assert sorted(p.name for p in folder.rglob("*")) == before
    assert not [name for name in before if name.startswith(".")]
