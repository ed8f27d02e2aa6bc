"""Where the files of a bundle repository come from: the server, a plain web server, or a folder such as a USB stick.

Nothing that is fetched is trusted (``edge.sync.channel`` verifies it); here is only an end to how much is taken, and a
download that goes on where it was cut off, also after a restart.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from edge.durable import remove_file
from edge.errors import MisuseError, SyncError, TrustError
from edge.sync.device_file import is_loopback

FLUSH_BYTES = 256 * 1024
PIECE_BYTES = 64 * 1024
CONNECT_SECONDS, READ_SECONDS = 5.0, 30.0

_NAME = re.compile(r"(metadata|targets)/[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")
_RANGE = re.compile(r"bytes ([0-9]{1,15})-[0-9]{1,15}/")


class NotThereError(SyncError):
    """The repository has no such file."""


@dataclass(frozen=True)
class Stream:
    """Bytes of a file from ``start`` on. Reading ``pieces`` raises SyncError when they break off with a word."""

    start: int
    pieces: Iterator[bytes]


class Fetcher(Protocol):
    """Opens the file ``metadata/...`` or ``targets/...`` of a repository, from ``start`` on or from its beginning.

    Raises NotThereError, SyncError.
    """

    def open(self, name: str, start: int = 0) -> AbstractContextManager[Stream]: ...


class StreamedAnswer(Protocol):
    """An HTTP answer whose body is on the wire, not decoded. headers: names in lower case."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def chunks(self) -> Iterator[bytes]: ...


class StreamsGet(Protocol):
    """What of ``edge.sync.client.SignedClient`` is needed here."""

    def stream_get(
        self, target: str, headers: Mapping[str, str] | None = None
    ) -> AbstractContextManager[StreamedAnswer]: ...


@dataclass(frozen=True)
class SignedFetcher:
    """From the server that this device is enrolled with; every request is signed by the device."""

    client: StreamsGet
    prefix: str = "/v1/bundles"

    @contextmanager
    def open(self, name: str, start: int = 0) -> Iterator[Stream]:
        with self.client.stream_get(f"{self.prefix}/{_checked(name)}", _asking_from(start)) as answer:
            yield Stream(_start_of(name, answer.status, answer.headers, start, {404}), answer.chunks)


@dataclass(frozen=True)
class WebFetcher:
    """From any web server that has the repository's folder. url: https, or http to this machine."""

    url: str

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            host = parts.hostname or ""
        except ValueError as error:
            raise MisuseError(f"{self.url!r:.120} is no address of a web server ({error})") from error
        if not host or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))):
            raise MisuseError(f"{self.url!r:.120} is not https; plain http is for this machine only (127.0.0.1)")

    @contextmanager
    def open(self, name: str, start: int = 0) -> Iterator[Stream]:
        import httpx

        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        target = f"{self.url.rstrip('/')}/{_checked(name)}"
        try:
            with httpx.stream(
                "GET",
                target,
                headers=_asking_from(start),
                timeout=timeout,
                trust_env=not is_loopback(urlsplit(target).hostname or ""),
            ) as answer:
                begin = _start_of(name, answer.status_code, answer.headers, start, {403, 404})
                yield Stream(begin, answer.iter_raw())
        except httpx.HTTPError as error:
            raise SyncError(f"{target} broke off ({error or type(error).__name__}); try again later") from error


@dataclass(frozen=True)
class FolderFetcher:
    """From a folder, such as ``soundkeep-trainer bundles export`` writes to a USB stick."""

    path: Path

    @contextmanager
    def open(self, name: str, start: int = 0) -> Iterator[Stream]:
        file = self.path / _checked(name)
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        try:
            descriptor = os.open(file, flags)
        except (FileNotFoundError, NotADirectoryError) as error:
            if not self.path.is_dir():
                raise SyncError(f"{self.path} is not there; put the stick in or name another folder") from error
            raise NotThereError(f"{self.path} has no {name}") from error
        except OSError as error:
            raise SyncError(f"{file} cannot be read ({error.strerror})") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise SyncError(f"{file} is no plain file; copy the repository anew")
        with os.fdopen(descriptor, "rb") as stream:
            stream.seek(start)
            yield Stream(start, _pieces_of(file, stream.read))


def read_whole(fetcher: Fetcher, name: str, max_bytes: int) -> bytes:
    """Return a small file. Raises TrustError (``endless``) beyond ``max_bytes``, NotThereError, SyncError."""
    taken = bytearray()
    with fetcher.open(name) as stream:
        for piece in stream.pieces:
            taken += piece
            if len(taken) > max_bytes:
                raise _endless(name, max_bytes)
    return bytes(taken)


def download(fetcher: Fetcher, name: str, partial: Path, length: int) -> int:
    """Bring the file ``partial`` to ``length`` bytes: what it has is kept, the rest is asked for and appended.

    Every piece is in the file as soon as it is here, and on the disk after 256 KiB: no more than that is fetched twice.
    Returns where this call went on. Raises SyncError when it was cut off (call again, later), TrustError when the file
    is longer (``endless``) or shorter (``wrong-hash``), OSError. What the bytes are is the caller's to verify.
    """
    have = partial.stat().st_size if partial.exists() else 0
    if have > length:
        remove_file(partial)
        have = 0
    if have == length > 0:
        return have
    try:
        with fetcher.open(name, have) as stream:
            if stream.start not in (0, have):
                raise SyncError(f"{name} was asked for from byte {have} on and came from {stream.start} on; try again")
            at = _append(stream, name, partial, length)
    except TrustError:
        remove_file(partial)
        raise
    if at < length:
        raise TrustError(f"{name} ends at byte {at} where {length} bytes were signed; it is not used", "wrong-hash")
    return stream.start


def _append(stream: Stream, name: str, partial: Path, length: int) -> int:
    """Write the stream to its place in ``partial``; returns how many bytes the file has then."""
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, stream.start)
        at = flushed = os.lseek(descriptor, stream.start, os.SEEK_SET)
        for piece in stream.pieces:
            if at + len(piece) > length:
                raise _endless(name, length)
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            at += len(piece)
            if at - flushed >= FLUSH_BYTES:
                os.fsync(descriptor)
                flushed = at
        os.fsync(descriptor)
        return at
    finally:
        os.close(descriptor)


def _checked(name: str) -> str:
    if not _NAME.match(name) or ".." in name:
        raise SyncError(f"{name!r:.80} is no name of a file in a repository of bundles")
    return name


def _asking_from(start: int) -> dict[str, str]:
    return {"accept-encoding": "identity", **({"range": f"bytes={start}-"} if start else {})}


def _start_of(name: str, status: int, headers: Mapping[str, str], asked: int, absent: set[int]) -> int:
    """Return where the body of an answer begins in the file."""
    if status in absent:
        raise NotThereError(f"the repository has no {name}")
    if headers.get("content-encoding", "identity") != "identity":
        raise SyncError(f"{name} came compressed, which was not asked for; have the server send files as they are")
    if status == 200:
        return 0
    if status == 416:
        raise TrustError(f"{name} ends before byte {asked}, which this device has; it is fetched anew", "wrong-hash")
    got = _RANGE.match(headers.get("content-range", ""))
    if status == 206 and got is not None:
        return int(got[1])
    raise SyncError(f"{name} was answered with status {status}; try again later")


def _pieces_of(file: Path, read: Callable[[int], bytes]) -> Iterator[bytes]:
    try:
        while piece := read(PIECE_BYTES):
            yield piece
    except OSError as error:
        raise SyncError(f"{file} cannot be read ({error.strerror}); put the stick in again") from error


def _endless(name: str, max_bytes: int) -> TrustError:
    return TrustError(f"{name} goes on beyond the {max_bytes} bytes that it may have; nothing of it is used", "endless")
