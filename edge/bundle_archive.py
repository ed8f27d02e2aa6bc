"""A bundle in one file, ``NAME-VERSION.skb``: a ZIP of which there is exactly one for each bundle.

Members are stored, not compressed: the manifest first, then its files by name; times and rights are fixed. So the
reader never follows what an archive says of itself. It reads the manifest, writes down every other byte of the archive
but the contents that must then be there, and wants those bytes: whatever makes ZIP files dangerous (compression, links,
doubled names, folders, overlapping or hidden members, headers that contradict each other) is a byte that differs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from edge.bundle import MANIFEST, Bundle, open_bundle
from edge.durable import flush_directory, prepare_file, publish_file, write_file
from edge.errors import BundleError
from edge.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest

MAX_ARCHIVE_BYTES = 1024**3
SUFFIX = ".skb"
_PIECE_BYTES = 1 << 18
_FETCH_AGAIN = "the bundle is damaged or was altered, fetch it again"

# ZIP (APPNOTE 6.3.10): version 2.0 made on Unix, no flags, method 0, 1 January 1980 0:00, plain file rw-r--r--
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_VERSION, _MADE_BY, _DAY, _ATTRIBUTES = 20, 3 << 8 | 20, 1 << 5 | 1, 0o100644 << 16


@dataclass(frozen=True)
class _Member:
    """One stored file. offset: where its header begins."""

    name: str
    size: int
    crc: int
    offset: int = 0

    @property
    def local_header(self) -> bytes:
        name = self.name.encode("ascii")
        fixed = (_VERSION, 0, 0, 0, _DAY, self.crc, self.size, self.size, len(name), 0)
        return _LOCAL.pack(b"PK\3\4", *fixed) + name

    @property
    def central_header(self) -> bytes:
        name = self.name.encode("ascii")
        fixed = (_MADE_BY, _VERSION, 0, 0, 0, _DAY, self.crc, self.size, self.size, len(name), 0, 0, 0, 0, _ATTRIBUTES)
        return _CENTRAL.pack(b"PK\1\2", *fixed, self.offset) + name

    @property
    def data_offset(self) -> int:
        return self.offset + _LOCAL.size + len(self.name)

    @property
    def end(self) -> int:
        return self.data_offset + self.size


def archive_name(name: str, version: int) -> str:
    """Return the file name of version ``version`` of the bundle ``name``."""
    return f"{name}-{version}{SUFFIX}"


def archive_bytes(bundle: Bundle) -> Iterator[bytes]:
    """Yield the bytes of the archive of ``bundle``, file by file. The same bundle gives the same bytes.

    Raises BundleError when a file of the bundle changed since it was opened, or when it is too large.
    """
    _check_total(bundle.manifest)
    members: list[_Member] = []
    for name, _ in _contents(bundle.manifest):
        data = bundle.manifest.to_bytes() if name == MANIFEST else bundle.read(name)
        member = _Member(name, len(data), zlib.crc32(data), members[-1].end if members else 0)
        members.append(member)
        yield member.local_header
        yield data
    yield _directory(members)


def write_archive(bundle: Bundle, path: Path) -> None:
    """Write ``bundle`` as one file; an existing file is replaced as a whole. Raises BundleError, OSError."""
    write_file(path, archive_bytes(bundle), mode=0o644)


def unpack_archive(
    archive: str | os.PathLike[str] | IO[bytes], target: Path, *, max_bytes: int = MAX_ARCHIVE_BYTES
) -> Bundle:
    """Unpack ``archive`` (a path, or a binary file that can seek) into the new folder ``target`` and open it.

    Everything is verified, contents included, before the first byte is written. The files are then written to a folder
    beside ``target``, verified as a bundle and renamed: at no moment does ``target`` hold half a bundle.

    Raises BundleError in one sentence; what was begun is removed. max_bytes: largest archive that is looked at.
    """
    if target.exists() or target.is_symlink():
        raise BundleError(f"{target} exists already; choose another folder, or remove it first")
    try:
        with open(archive, "rb") if isinstance(archive, (str, os.PathLike)) else nullcontext(archive) as file:
            manifest, members = _examine(file, max_bytes)
            return _unpack(file, manifest, members, target)
    except OSError as e:
        raise BundleError(
            f"bundle archive {getattr(archive, 'name', archive)} cannot be unpacked: {e.strerror or e}; "
            "check the path, its permissions and the free space"
        ) from e


def _contents(manifest: Manifest) -> Iterator[tuple[str, int]]:
    """Yield name and size of each member in order."""
    yield MANIFEST, len(manifest.to_bytes())
    for name in sorted(manifest.files):
        yield name, manifest.files[name].size


def _check_total(manifest: Manifest, max_bytes: int = MAX_ARCHIVE_BYTES) -> None:
    total = sum(size for _, size in _contents(manifest))
    if total > max_bytes:
        raise BundleError(f"the bundle has {total} bytes; wanted at most {max_bytes} in one archive")


def _directory(members: list[_Member]) -> bytes:
    central = b"".join(member.central_header for member in members)
    return central + _END.pack(b"PK\5\6", 0, 0, len(members), len(members), len(central), members[-1].end, 0)


def _examine(file: IO[bytes], max_bytes: int) -> tuple[Manifest, list[_Member]]:
    """Compare every byte of the archive with what it must be. Memory: one piece of 256 KiB and the manifest."""
    size = file.seek(0, os.SEEK_END)
    if size > max_bytes:
        raise BundleError(f"the bundle archive has {size} bytes; wanted at most {max_bytes}")
    first = _read_member(file, _Member(MANIFEST, -1, -1))
    if first.size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{MANIFEST} in the archive has {first.size} bytes; wanted at most {MAX_MANIFEST_BYTES}")
    manifest = parse_manifest(_exactly(file, first.data_offset, first.size))
    _check_total(manifest, max_bytes)
    members: list[_Member] = []
    for name, n_bytes in _contents(manifest):
        members.append(_read_member(file, _Member(name, n_bytes, -1, members[-1].end if members else 0)))
    wanted = _directory(members)
    if size != members[-1].end + len(wanted) or _exactly(file, members[-1].end, len(wanted)) != wanted:
        raise BundleError(
            f"the directory of the archive does not name exactly its {len(members)} members, or something lies "
            f"behind or between them; {_FETCH_AGAIN}"
        )
    for member in members:
        _check_content(file, member, manifest)
    return manifest, members


def _read_member(file: IO[bytes], wanted: _Member) -> _Member:
    """Read the header where ``wanted`` must begin; -1 as its size or CRC takes what the header says."""
    header = _exactly(file, wanted.offset, _LOCAL.size + len(wanted.name))
    signature, _, flags, method, _, _, crc, packed, size, n_name, n_extra = _LOCAL.unpack_from(header)
    name = header[_LOCAL.size :]
    if signature != b"PK\3\4":
        raise BundleError(f"{wanted.name} is not where it must be in the bundle archive; {_FETCH_AGAIN}")
    if flags & 1 or method != 0:
        how = "encrypted" if flags & 1 else "compressed"
        raise BundleError(f"the archive holds {how} members; a bundle is stored as it is, write it with write_archive")
    if name != wanted.name.encode("ascii") or n_name != len(name):
        raise BundleError(f"the archive holds {name!r:.80} where its manifest wants {wanted.name!r}; {_FETCH_AGAIN}")
    member = replace(wanted, crc=crc, size=size if wanted.size < 0 else wanted.size)
    if packed != size or size != member.size or n_extra:
        raise BundleError(
            f"{wanted.name} in the archive claims {size} bytes; wanted {member.size} and no more; {_FETCH_AGAIN}"
        )
    if header != member.local_header:
        raise BundleError(
            f"the header of {wanted.name} in the archive is not as write_archive makes it; {_FETCH_AGAIN}"
        )
    return member


def _check_content(file: IO[bytes], member: _Member, manifest: Manifest) -> None:
    digest, crc = hashlib.sha256(), 0
    for piece in _pieces(file, member):
        digest.update(piece)
        crc = zlib.crc32(piece, crc)
    listed = manifest.files.get(member.name)
    if crc != member.crc or (listed is not None and digest.hexdigest() != listed.sha256):
        raise BundleError(f"{member.name} in the archive does not match its SHA-256; {_FETCH_AGAIN}")


def _unpack(file: IO[bytes], manifest: Manifest, members: list[_Member], target: Path) -> Bundle:
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that died here
    try:
        partial.mkdir(parents=True)
        for member in members:
            path = partial / member.name
            publish_file(prepare_file(path, _pieces(file, member), mode=0o644), path)
        bundle = open_bundle(partial)
        if bundle.sha256 != manifest.sha256:
            raise BundleError(f"the bundle archive changed while it was read; {_FETCH_AGAIN}")
        partial.rename(target)
        flush_directory(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return replace(bundle, path=target)


def _pieces(file: IO[bytes], member: _Member) -> Iterator[bytes]:
    for start in range(0, member.size, _PIECE_BYTES):
        yield _exactly(file, member.data_offset + start, min(_PIECE_BYTES, member.size - start))


def _exactly(file: IO[bytes], offset: int, n_bytes: int) -> bytes:
    file.seek(offset)
    data = file.read(n_bytes)
    if len(data) != n_bytes:
        raise BundleError(f"the bundle archive ends in the middle of a member; {_FETCH_AGAIN}")
    return data
