"""A download goes on where it was cut, has an end, and takes only what a repository may hold."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from edge.errors import MisuseError, SyncError, TrustError
from edge.sync.fetcher import (
    Fetcher,
    FolderFetcher,
    NotThereError,
    SignedFetcher,
    Stream,
    WebFetcher,
    download,
    read_whole,
)
from tests.faults import repetitions
from tests.simulators.bundle_server import BundleServer, serving

NAME = "targets/big.skb"
LENGTH = 3_000_000
CHUNK = 256 * 1024


@pytest.fixture(scope="module")
def content() -> bytes:
    return np.random.default_rng(1).bytes(LENGTH)


@pytest.fixture
def web(tmp_path: Path, content: bytes) -> Iterator[BundleServer]:
    (tmp_path / "served" / "targets").mkdir(parents=True)
    (tmp_path / "served" / NAME).write_bytes(content)
    with serving(tmp_path / "served") as server:
        yield server


@dataclass(frozen=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes]


@dataclass(frozen=True)
class PlainClient:
    """What the signed client does, without signing."""

    url: str

    @contextmanager
    def stream_get(self, target: str, headers: Mapping[str, str] | None = None) -> Iterator[Answered]:
        try:
            with httpx.stream("GET", self.url + target, headers=headers) as answer:
                yield Answered(answer.status_code, answer.headers, answer.iter_raw(65536))
        except httpx.HTTPError as error:
            raise SyncError(str(error)) from error


def fetchers(server: BundleServer) -> dict[str, Fetcher]:
    signed = SignedFetcher(PlainClient(server.url), prefix="")
    return {"signed": signed, "web": WebFetcher(server.url), "folder": FolderFetcher(server.folder)}


@pytest.mark.parametrize("kind", ["signed", "web", "folder"])
def test_one_contract_for_every_source(web: BundleServer, content: bytes, kind: str, tmp_path: Path) -> None:
    fetcher = fetchers(web)[kind]
    assert read_whole(fetcher, NAME, LENGTH) == content
    with fetcher.open(NAME, 1_000_000) as stream:
        assert stream.start == 1_000_000 and b"".join(stream.pieces) == content[1_000_000:]
    with pytest.raises(NotThereError), fetcher.open("metadata/9.root.json"):
        pass
    for bad in ("targets/../x", "../x", "/etc/passwd", "targets/a/b", "targets/.hidden", "x", "targets/a\\b", ""):
        with pytest.raises(SyncError, match="no name"), fetcher.open(bad):
            pass
    with pytest.raises(TrustError, match="goes on beyond") as caught:
        read_whole(fetcher, NAME, LENGTH - 1)
    assert caught.value.kind == "endless"
    partial = tmp_path / "p.partial"
    partial.write_bytes(content[:700_001])
    assert download(fetcher, NAME, partial, LENGTH) == 700_001
    assert partial.read_bytes() == content


@pytest.mark.faults
def test_cut_at_random_places_no_chunk_comes_twice(web: BundleServer, content: bytes, tmp_path: Path) -> None:
    """Fault 13: at most 256 KiB are received twice for each cut, and the hash is right every time."""
    rng = np.random.default_rng(5)
    fetcher = Counting(WebFetcher(web.url))
    for n in range(repetitions(6, 100)):
        partial = tmp_path / f"{n}.partial"
        fetcher.n_bytes = n_cuts = 0
        web.cut_after = lambda name: int(rng.integers(0, LENGTH // 2))
        for _ in range(200):
            try:
                download(fetcher, NAME, partial, LENGTH)
                break
            except SyncError:
                n_cuts += 1
        assert partial.read_bytes() == content
        assert n_cuts > 0 and fetcher.n_bytes - LENGTH <= n_cuts * CHUNK, (fetcher.n_bytes, n_cuts)
        partial.unlink()


class Counting:
    """Counts the bytes that were received."""

    def __init__(self, fetcher: Fetcher) -> None:
        self.fetcher, self.n_bytes = fetcher, 0

    @contextmanager
    def open(self, name: str, start: int = 0) -> Iterator[Stream]:
        with self.fetcher.open(name, start) as stream:
            yield Stream(stream.start, self._counted(stream.pieces))

    def _counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.n_bytes += len(piece)
            yield piece


@pytest.mark.faults
def test_a_process_killed_in_the_middle_goes_on(web: BundleServer, content: bytes, tmp_path: Path) -> None:
    """kill -9 at a random moment, then a new process: what was received is in the file."""
    for n in range(repetitions(1, 20)):
        partial = tmp_path / f"{n}.partial"
        script = (
            "import sys, time; from contextlib import contextmanager; from pathlib import Path\n"
            "from edge.sync import fetcher as f\n"
            "web = f.WebFetcher(sys.argv[1])\n"
            "class Slow:\n"
            "    @contextmanager\n"
            "    def open(self, name, start=0):\n"
            "        with web.open(name, start) as s:\n"
            "            yield f.Stream(s.start, (time.sleep(0.02) or p for p in s.pieces))\n"
            f"f.download(Slow(), {NAME!r}, Path(sys.argv[2]), {LENGTH})\n"
        )
        child = subprocess.Popen([sys.executable, "-c", script, web.url, str(partial)], cwd=Path(__file__).parents[3])
        until = time.monotonic() + 60.0
        while not (partial.exists() and partial.stat().st_size > (n + 1) * 65536) and time.monotonic() < until:
            time.sleep(0.005)
        child.kill()
        child.wait()
        had = partial.stat().st_size
        assert 0 < had < LENGTH and partial.read_bytes() == content[:had]
        assert download(WebFetcher(web.url), NAME, partial, LENGTH) == had
        assert hashlib.sha256(partial.read_bytes()).digest() == hashlib.sha256(content).digest()


def test_without_the_partial_file_everything_comes_twice(web: BundleServer, tmp_path: Path) -> None:
    """The mechanism switched off: forget what was received, and a cut costs more than a chunk."""
    fetcher = Counting(WebFetcher(web.url))
    web.cut_after = lambda name: 2_000_000
    with pytest.raises(SyncError):
        download(fetcher, NAME, tmp_path / "p", LENGTH)
    web.cut_after = lambda name: None
    (tmp_path / "p").unlink()
    download(fetcher, NAME, tmp_path / "p", LENGTH)
    assert fetcher.n_bytes - LENGTH > CHUNK


def test_a_server_without_ranges_begins_anew(web: BundleServer, content: bytes, tmp_path: Path) -> None:
    web.ranges = False
    (tmp_path / "p").write_bytes(b"x" * 1000)
    assert download(WebFetcher(web.url), NAME, tmp_path / "p", LENGTH) == 0
    assert (tmp_path / "p").read_bytes() == content


def test_endless_data_is_cut_off(web: BundleServer, tmp_path: Path) -> None:
    web.endless = {NAME}
    for fetcher in (WebFetcher(web.url), SignedFetcher(PlainClient(web.url), prefix="")):
        with pytest.raises(TrustError) as caught:
            download(fetcher, NAME, tmp_path / "p", LENGTH)
        assert caught.value.kind == "endless" and not (tmp_path / "p").exists()
        with pytest.raises(TrustError):
            read_whole(fetcher, NAME, 10_000)


def test_compressed_answers_and_odd_statuses_are_refused(web: BundleServer, tmp_path: Path) -> None:
    web.encoding = "gzip"
    with pytest.raises(SyncError, match="compressed"):
        read_whole(WebFetcher(web.url), NAME, LENGTH)
    web.encoding = None
    (tmp_path / "p").write_bytes(bytes(5))
    web.replaced = {NAME: b"abc"}
    with pytest.raises(TrustError, match="ends before byte 5"):
        download(WebFetcher(web.url), NAME, tmp_path / "p", 10)
    assert not (tmp_path / "p").exists()


def test_plain_http_is_for_this_machine_only() -> None:
    for url in ("http://example.com", "ftp://127.0.0.1", "127.0.0.1", "http://127.0.0.1.example.com", "file:///x", ""):
        with pytest.raises(MisuseError, match=r"https|address"):
            WebFetcher(url)
    WebFetcher("https://example.com/bundles")
    WebFetcher("http://localhost:80")


def test_a_stick_that_is_gone_or_full_of_tricks(tmp_path: Path) -> None:
    with pytest.raises(SyncError, match="put the stick in"):
        read_whole(FolderFetcher(tmp_path / "gone"), NAME, 10)
    (tmp_path / "targets").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "targets" / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "targets" / "pipe")
    (tmp_path / "targets" / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        with pytest.raises(SyncError, match=r"plain file|cannot be read"):
            read_whole(FolderFetcher(tmp_path), f"targets/{name}", 10)


def test_a_server_out_of_reach_is_one_sentence() -> None:
    with pytest.raises(SyncError, match="try again later") as caught:
        read_whole(WebFetcher("http://127.0.0.1:9"), NAME, 10)
    assert not isinstance(caught.value, TrustError)
