"""Fixtures of the edge's tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulators.power_cut import compile_recorder


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one, for tests that learn nothing from waiting for a disk."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that records what a process writes."""
    compiled = compile_recorder(tmp_path_factory.mktemp("recorder"))
    if compiled is None:
        pytest.skip("needs Linux and a C compiler (cc) to record the writes of a process")
    return compiled
