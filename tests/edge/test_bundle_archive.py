"""There is one archive of a bundle, byte for byte; every other file is refused and leaves nothing behind."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge import bundle_archive
from edge.bundle import Bundle, open_bundle
from edge.bundle_archive import archive_bytes, archive_name, unpack_archive, write_archive
from edge.errors import BundleError
from edge.manifest import parse_manifest
from tests.faults import repetitions
from tests.simulators.small_backbone import onnx_model, write_small_bundle

Entries = list[tuple[zipfile.ZipInfo, bytes]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of a few hundred bytes, so that a thousand mutations hit everything."""
    from onnx import helper

    onnx = onnx_model([helper.make_node("Identity", ["x"], ["y"])], {"x": ["n", 8]}, {"y": ["n", 8]}, {})
    changes = {"window_length": 8, "hop_length": 4, "dim": 8, "input_name": "x", "output_name": "y"}
    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    return write_small_bundle(folder, onnx=onnx, documents={"NOTICE": b"n" * 40, "EMPTY": b""}, **changes)


@pytest.fixture(scope="module")
def archive(tiny: Bundle) -> bytes:
    return b"".join(archive_bytes(tiny))


def entries(tiny: Bundle) -> Entries:
    """The members of the archive as zipfile would write them, to be tampered with."""
    out: Entries = []
    for name in ["manifest.json", *sorted(tiny.manifest.files)]:
        info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
        info.create_system, info.external_attr = 3, 0o100644 << 16
        out.append((info, (tiny.path / name).read_bytes()))
    return out


def zipped(members: Entries, comment: bytes = b"") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.comment = comment
        for info, data in members:
            archive.writestr(info, data)
    return file.getvalue()


def refuse(data: bytes, folder: Path, match: str | None = None) -> None:
    """The archive is refused in one sentence, nothing is written, in or outside the folder."""
    place = folder / "inside" / "bundle"
    place.parent.mkdir(exist_ok=True, parents=True)
    with pytest.raises(BundleError, match=match) as caught:
        unpack_archive(io.BytesIO(data), place)
    assert "\n" not in str(caught.value)
    assert [p for p in folder.rglob("*") if p != place.parent] == []


def test_what_is_packed_is_unpacked(tiny: Bundle, archive: bytes, tmp_path: Path) -> None:
    path = tmp_path / archive_name(tiny.name, tiny.version)
    write_archive(tiny, path)
    assert path.name == "small-1.skb" and path.read_bytes() == archive
    for source in (path, str(path), io.BytesIO(archive)):
        again = unpack_archive(source, tmp_path / "out" / f"{len(os.listdir(tmp_path))}")
        assert again.sha256 == tiny.sha256 and again == open_bundle(again.path)
        again.path.rename(tmp_path / f"kept{len(os.listdir(tmp_path))}")
    assert os.listdir(tmp_path / "out") == []


def test_the_same_bundle_gives_the_same_bytes(tiny: Bundle, archive: bytes, tmp_path: Path) -> None:
    again = unpack_archive(io.BytesIO(archive), tmp_path / "again")
    os.utime(again.path / "NOTICE", (1, 1))
    assert b"".join(archive_bytes(again)) == archive


def test_other_tools_read_it(tiny: Bundle, archive: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        assert file.testzip() is None
        assert file.namelist() == ["manifest.json", *sorted(tiny.manifest.files)]
        assert all(info.compress_type == zipfile.ZIP_STORED for info in file.infolist())
        assert file.read("NOTICE") == b"n" * 40
    assert zipped(entries(tiny)) == archive, "zipfile writes the very same bytes"


def renamed(name: str) -> Callable[[Entries], None]:
    def change(members: Entries) -> None:
        members[-1][0].filename = name

    return change


def appended(name: str, data: bytes = b"x") -> Callable[[Entries], None]:
    return lambda members: members.append((zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data))


def compressed(members: Entries) -> None:
    for info, _ in members:
        info.compress_type = zipfile.ZIP_DEFLATED


def bomb(members: Entries) -> None:
    info, _ = members[2]
    info.compress_type = zipfile.ZIP_DEFLATED
    members[2] = (info, bytes(20_000_000))


def as_link(members: Entries) -> None:
    info, _ = members[-1]
    info.external_attr = 0o120777 << 16
    members[-1] = (info, b"/etc/passwd")


def set_id(members: Entries) -> None:
    members[-1][0].external_attr = 0o104755 << 16


def dos_folder(members: Entries) -> None:
    members[-1][0].external_attr |= 0x10


def reordered(members: Entries) -> None:
    members[1], members[2] = members[2], members[1]


def manifest_last(members: Entries) -> None:
    members.append(members.pop(0))


def twice(members: Entries) -> None:
    members.append(members[-1])


def missing(members: Entries) -> None:
    members.pop()


def longer(members: Entries) -> None:
    members[-1] = (members[-1][0], members[-1][1] + b"x")


def other_content(members: Entries) -> None:
    members[-1] = (members[-1][0], bytes(len(members[-1][1])))


def commented(members: Entries) -> None:
    members[-1][0].comment = b"hello"


def extra_field(members: Entries) -> None:
    members[-1][0].extra = struct.pack("<HHQQ", 1, 16, 1 << 40, 1 << 40)


def dated(members: Entries) -> None:
    members[-1][0].date_time = (2024, 1, 1, 0, 0, 0)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (renamed("../escape"), "where its manifest wants"),
        (renamed("../../escape"), "where its manifest wants"),
        (renamed("/tmp/soundkeep-escape"), "claims|where its manifest wants"),
        (renamed("a/b.txt"), "where its manifest wants"),
        (renamed("..\\escape"), "where its manifest wants"),
        (renamed("C:escape"), "where its manifest wants"),
        (renamed("Backbone.onnx"), "where its manifest wants"),
        (renamed("notice"), "where its manifest wants"),
        (appended("../escape"), "directory"),
        (appended("extra.so"), "directory"),
        (appended("BACKBONE.ONNX"), "directory"),
        (appended("folder/", b""), "directory"),
        (compressed, "compressed"),
        (bomb, "compressed"),
        (as_link, "claims|directory|SHA-256"),
        (set_id, "directory"),
        (dos_folder, "directory"),
        (reordered, "where its manifest wants"),
        (manifest_last, "where its manifest wants"),
        (twice, "directory"),
        (missing, "not where it must be|directory"),
        (longer, "claims"),
        (other_content, "SHA-256"),
        (commented, "directory"),
        (extra_field, "claims"),
        (dated, "header"),
    ],
)
def test_each_crafted_archive_is_refused(
    tiny: Bundle, tmp_path: Path, tamper: Callable[[Entries], None], sentence: str
) -> None:
    members = entries(tiny)
    tamper(members)
    refuse(zipped(members), tmp_path, sentence)


def test_nul_in_a_name_is_refused(archive: bytes, tmp_path: Path) -> None:
    second = archive.index(b"PK\3\4", 4)
    refuse(archive[:second] + archive[second:].replace(b"NOTICE", b"NOT\0CE"), tmp_path, "where its manifest wants")


def test_comment_junk_and_tail_are_refused(tiny: Bundle, archive: bytes, tmp_path: Path) -> None:
    refuse(zipped(entries(tiny), comment=b"hello"), tmp_path, "directory")
    refuse(archive + b"\0", tmp_path, "directory")
    refuse(b"#!/bin/sh\n" + archive, tmp_path, "not where it must be")
    refuse(archive + archive, tmp_path, "directory")


def test_headers_that_contradict_each_other_are_refused(archive: bytes, tmp_path: Path) -> None:
    """Tools that believe the directory and tools that believe the local header would see two different files."""
    central = archive.rindex(b"PK\1\2")
    for at in range(central, len(archive)):
        data = bytearray(archive)
        data[at] ^= 1
        refuse(bytes(data), tmp_path, "directory")


def test_overlapping_members_are_refused(tiny: Bundle, archive: bytes, tmp_path: Path) -> None:
    """Two names of the directory that share one body: how a bomb of stored members is made."""
    directory = archive.index(b"PK\1\2")
    first = archive[directory : archive.index(b"PK\1\2", directory + 1)]
    (n_entries, n_bytes, offset) = struct.unpack_from("<H2L", archive, len(archive) - 12)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, n_entries + 1, n_entries + 1, n_bytes + len(first), offset, 0)
    refuse(archive[:-22] + first + end, tmp_path, "directory")


def test_sizes_of_64_bits_are_refused(archive: bytes, tmp_path: Path) -> None:
    data = bytearray(archive)
    struct.pack_into("<2L", data, 18, 0xFFFFFFFF, 0xFFFFFFFF)
    refuse(bytes(data), tmp_path, "claims|has .* bytes|ends in the middle")


def test_an_encrypted_member_is_refused(archive: bytes, tmp_path: Path) -> None:
    data = bytearray(archive)
    data[6] |= 1
    refuse(bytes(data), tmp_path, "encrypted")


@pytest.mark.faults
def test_no_mutation_is_accepted(archive: bytes, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for _ in range(repetitions(60, 1000)):
        data = mutated(archive, rng)
        if data != archive:
            refuse(data, tmp_path)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip, cut, double or splice."""
    at, other = sorted(int(i) for i in rng.integers(0, len(data), 2))
    kind = rng.integers(5)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data[:other] + data[at:other] + data[other:]
    if kind == 3:
        return data[:at] + data[other:]
    return data[:at] + rng.bytes(other - at) + data[other:]


def test_an_archive_of_2_gib_costs_nothing(tmp_path: Path) -> None:
    huge = tmp_path / "huge.skb"
    huge.touch()
    os.truncate(huge, 2 << 30)
    tracemalloc.start()
    with pytest.raises(BundleError, match="wanted at most"):
        unpack_archive(huge, tmp_path / "out")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert os.listdir(tmp_path) == ["huge.skb"]


def test_a_bundle_above_the_cap_is_neither_packed_nor_unpacked(
    tiny: Bundle, archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BundleError, match="wanted at most 1000"):
        unpack_archive(io.BytesIO(archive), tmp_path / "out", max_bytes=1000)
    monkeypatch.setattr(bundle_archive, "_check_total", lambda manifest, max_bytes=0: bad(manifest))

    def bad(manifest: object) -> None:
        raise BundleError("too large")

    with pytest.raises(BundleError, match="too large"):
        write_archive(tiny, tmp_path / "x.skb")
    assert os.listdir(tmp_path) == []


def test_what_is_there_is_never_replaced(archive: bytes, tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="exists already"):
        unpack_archive(io.BytesIO(archive), place)
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_leaves_nothing(archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bundle_archive.prepare_file

    def failing(path: Path, pieces: object, *, mode: int) -> Path:
        if path.name == "NOTICE":
            raise OSError(28, "No space left on device")
        return whole(path, pieces, mode=mode)  # type: ignore[arg-type]

    monkeypatch.setattr(bundle_archive, "prepare_file", failing)
    with pytest.raises(BundleError, match="No space left"):
        unpack_archive(io.BytesIO(archive), tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_is_no_hindrance(archive: bytes, tmp_path: Path) -> None:
    left = tmp_path / ".out.partial"
    left.mkdir()
    (left / "backbone.onnx").write_bytes(b"half")
    unpack_archive(io.BytesIO(archive), tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_that_changes_between_looking_and_unpacking_is_refused(archive: bytes, tmp_path: Path) -> None:
    class Changing(io.BytesIO):
        n_reads = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.n_reads += 1
            data = super().read(size)
            return data.replace(b"nnn", b"mmm") if self.n_reads > n_whole else data

    class Counting(io.BytesIO):
        n_reads = 0

        def read(self, size: int | None = -1, /) -> bytes:
            Counting.n_reads += 1
            return super().read(size)

    bundle_archive._examine(Counting(archive), 1 << 20)
    n_whole = Counting.n_reads
    with pytest.raises(BundleError, match="SHA-256"):
        unpack_archive(Changing(archive), tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_without_the_comparison_an_extra_member_would_be_carried(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mechanism switched off: the directory is believed, and an archive with two readings is taken."""
    members = entries(tiny)
    appended("../escape")(members)
    data = zipped(members)
    manifest = parse_manifest(entries(tiny)[0][1])
    end = data.rindex(b"PK\3\4")
    monkeypatch.setattr(bundle_archive, "_directory", lambda _: data[end:])
    assert unpack_archive(io.BytesIO(data), tmp_path / "out").sha256 == manifest.sha256
