"""The command from a bundle to a folder: what is written, what is said of it, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edge.embedder import Embedder
from edge.errors import BundleError
from export.c.compose import CSettings, _prove_read, write_library
from export.c.cost import TARGETS, Target, check_fits, known_cost
from export.c.emulated import toolchain
from export.c.host import compiler
from export.c.network import Conv
from export.c.plan import plan_arena
from export.cli import main
from tests.bundles import tone, write_wav
from tests.conftest import REPOSITORY
from tests.export.c.written import made_windows, sibling, small_bundle, written

UNMEASURED = CSettings(measure=False)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of eight clips of a second."""
    folder, rng = tmp_path_factory.mktemp("sets") / "tones", np.random.default_rng(0)
    for label, hz in {"low": 300.0, "high": 2500.0}.items():
        (folder / label).mkdir(parents=True)
        for i in range(8):
            write_wav(folder / label / f"{i}{label}.wav", tone(hz * (1 + 0.03 * i), 1.2, rng), 16000)
    return folder


def test_a_person_gets_a_folder_and_a_report(tmp_path: Path, sets: Path) -> None:
    if compiler() is None:
        pytest.skip("needs a C compiler")
    out = tmp_path / "library"
    arguments = ["c", str(small_bundle().path), "--out", str(out), "--data", f"tones={sets}", "--check", str(sets)]
    answer = CliRunner().invoke(main, arguments)
    assert answer.exit_code == 0, answer.output
    text = (out / "report.md").read_text()
    for words in (
        "| flash, bytes, ear and head |",
        "| arena |",
        "multiply-adds",
        "Compile every file",
        "windows of tones",
    ):
        assert words in text
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    (found,) = report["sets"]["int8"]
    assert found["n_clips"] == 16 and 0 < found["n_kept_out"] < 16 and found["agreement"] >= 0.75
    cost = report["costs"]["int8"]
    assert cost["arena_bytes"] == plan_arena(written().network, "int8").n_bytes
    assert cost["ram_bytes"] > cost["arena_bytes"] + cost["head_bytes"]
    if toolchain():
        assert cost["constants_bytes"] < cost["flash_bytes"] < cost["device_flash_bytes"]
        assert cost["ram_bytes"] < cost["device_ram_bytes"]


def test_the_same_bundle_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_library(small_bundle().path, tmp_path / name, UNMEASURED)
    files = [p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file()]
    assert len(files) > 20
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(BundleError, match="exists already; choose another folder"):
        write_library(small_bundle().path, tmp_path, UNMEASURED)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_the_default_ear_is_too_large_and_it_says_what_fits(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"ear in int8 needs 1,6\d\d,\d\d\d bytes of flash.*--widths 8,16,24,40,64"):
        write_library(REPOSITORY / "edge" / "bundles" / "ear", tmp_path / "library", UNMEASURED)
    assert list(tmp_path.iterdir()) == []


def test_what_is_too_large_in_float_is_told_to_become_int8() -> None:
    network = sibling()
    cost = known_cost(network, "float32", plan_arena(network, "float32"))
    with pytest.raises(BundleError, match="write it in int8"):
        check_fits(cost, TARGETS["m4"], "sibling")
    check_fits(cost, TARGETS["host"], "sibling")


def test_stack_counts_against_the_room() -> None:
    network = sibling()
    cost = known_cost(network, "int8", plan_arena(network, "int8"))
    room = Target("small one", 1 << 20, cost.ram_bytes)
    check_fits(cost, room, "sibling")
    with pytest.raises(BundleError, match="a small one has"):
        check_fits(replace(cost, stack_bytes=1), room, "sibling")


def test_a_network_that_was_read_wrong_is_not_written() -> None:
    network = written().network
    last = network.steps[-1]
    assert isinstance(last, Conv)
    changed = last.weights.copy()
    changed[0] *= 1.1
    wrong = replace(network, steps=(*network.steps[:-1], replace(last, weights=changed)))
    windows = made_windows(2)
    _prove_read(network, Embedder(small_bundle()), windows)
    with pytest.raises(BundleError, match="differs from it by"):
        _prove_read(wrong, Embedder(small_bundle()), windows)


def test_heads_that_are_none_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "head"
    other.write_bytes(b"SKH1" + bytes(60))
    for path, words in ((tmp_path / "gone", "cannot be read"), (other, "it is not whole")):
        with pytest.raises(BundleError, match=words):
            write_library(small_bundle().path, tmp_path / "library", replace(UNMEASURED, head=path))
    other.write_bytes(b"nothing")
    with pytest.raises(BundleError, match="is no head for a microcontroller"):
        write_library(small_bundle().path, tmp_path / "library", replace(UNMEASURED, head=other))
    with pytest.raises(BundleError, match="no head can be made of"):
        write_library(small_bundle().path, tmp_path / "library", replace(UNMEASURED, memory=tmp_path / "gone"))
