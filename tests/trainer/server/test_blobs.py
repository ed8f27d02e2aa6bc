"""One contract for every blob store; the local one survives a killed writer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.errors import ConfigurationError, CorruptionError, StateError
from trainer.server.blobs import BlobStore


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of an S3 server on loopback, spoken to over HTTP as any other."""
    pytest.importorskip("s3fs", reason="needs s3fs and moto, an S3 server in Python")
    server_of = pytest.importorskip("moto.server", reason="needs s3fs and moto, an S3 server in Python")
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    words = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in words.items():
            patch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("kept")
        yield "s3://kept"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "s3":
        return BlobStore(f"{request.getfixturevalue('bucket')}/{tmp_path.name}")
    urls = {"folder": str(tmp_path / "blobs"), "file": f"file://{tmp_path}/blobs", "memory": f"memory://{tmp_path}"}
    return BlobStore(urls[request.param])


def test_the_contract(store: BlobStore) -> None:
    name = hashlib.sha256(b"abc").hexdigest()
    assert not store.has(name) and list(store.names()) == []
    assert store.put(b"abc") == store.put(b"abc") == name
    other = store.put(b"")
    assert store.has(name) and store.get(name) == b"abc" and store.get(other) == b""
    assert set(store.names()) == {name, other}
    store.remove(name)
    store.remove(name)
    assert not store.has(name) and set(store.names()) == {other}
    with pytest.raises(StateError, match="backup"):
        store.get(name)
    for bad in ("", "../../etc/passwd", "A" * 64, name + "\n"):
        with pytest.raises(StateError, match="not the name"):
            store.get(bad)


def test_altered_bytes_are_noticed(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path))
    name = store.put(b"abc")
    (tmp_path / name[:2] / name).write_bytes(b"abd")
    with pytest.raises(CorruptionError):
        store.get(name)


def test_leftovers_of_killed_writers_are_no_blobs(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path))
    name = store.put(b"abc")
    (tmp_path / name[:2] / f"{name[:16]}.0123.tmp").write_bytes(b"ab")
    assert set(store.names()) == {name}
    assert store.remove_leftovers(older_than=0.0) == 0
    assert store.remove_leftovers(older_than=2.0**40) == 1 and store.get(name) == b"abc"


def test_a_place_that_cannot_be_is_said() -> None:
    with pytest.raises(ConfigurationError, match="blob store"):
        BlobStore("nonsense://x")
