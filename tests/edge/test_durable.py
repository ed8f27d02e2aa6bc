"""Files that appear whole or not at all, also when the disk takes only a part of each write."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from edge.durable import prepare_file, publish_file, remove_file, sealed_json, unsealed_json, write_file


def test_a_file_is_written_from_pieces_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, [b"abc", b"", b"def"])
    assert path.read_bytes() == b"abcdef" and path.stat().st_mode & 0o777 == 0o600
    write_file(path, [])
    assert path.read_bytes() == b"" and list(tmp_path.iterdir()) == [path]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:3]))
    write_file(tmp_path / "file", [b"0123456789" * 10])
    assert (tmp_path / "file").read_bytes() == b"0123456789" * 10


def test_nothing_is_left_of_a_write_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_file(path, [b"before"])

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        write_file(path, [b"after"])
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_a_prepared_file_is_seen_only_when_published(tmp_path: Path) -> None:
    path = tmp_path / "file"
    beside = prepare_file(path, [b"x"])
    assert not path.exists() and beside.read_bytes() == b"x"
    publish_file(beside, path)
    assert path.read_bytes() == b"x" and not beside.exists()
    remove_file(path)
    remove_file(path)
    assert list(tmp_path.iterdir()) == []


def test_a_sealed_value_comes_back_and_an_altered_one_does_not() -> None:
    value = {"labels": ["Tür", "音"], "n": 3}
    data = sealed_json(value)
    assert unsealed_json(data) == value
    for other in (data.replace(b"3", b"2", 1), b"{}", b"[]", b"null", b"", data[:-1], b"\xff" + data):
        with pytest.raises(ValueError):
            unsealed_json(other)
