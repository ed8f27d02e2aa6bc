"""Fixtures of the whole suite. One thread per numerical library, so that a test costs what it says on any machine."""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from edge.bundle import Bundle

REPOSITORY = Path(__file__).resolve().parent.parent

hypothesis.settings.register_profile(
    "soundkeep",
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("thorough", parent=hypothesis.settings.get_profile("soundkeep"), max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "soundkeep"))


@pytest.fixture(scope="module", autouse=True)
def no_helper_process_stays() -> Iterator[None]:
    """multiprocessing keeps a process to track resources; other modules count the children of this one."""
    yield
    from multiprocessing import resource_tracker

    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def _shared(kind: str) -> Path:
    """Return the folder ``kind`` of recordings and third-party models that lie beside the checkout, or skip."""
    root = Path(os.environ.get("SOUNDKEEP_SHARED", REPOSITORY.parent / "shared"))
    folder = root / kind
    if not folder.is_dir():
        pytest.skip(f"needs {kind}/ in {root}; set SOUNDKEEP_SHARED to the folder that holds it")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of public recordings (esc50, speech_commands_test, ...)."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """Folder of third-party ONNX models (YAMNet, ...)."""
    return _shared("models")


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A verified bundle of a backbone that costs a millisecond a window (16 kHz, 1 s windows, 64 numbers)."""
    from tests.simulators.small_backbone import write_small_bundle

    return write_small_bundle(tmp_path_factory.mktemp("bundles") / "small")
