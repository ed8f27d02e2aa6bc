"""Each gate fails on the ear that it is there for, and on that one alone; real bundles, real ONNX Runtime."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge.bundle import Bundle
from edge.embedder import Embedder
from edge.linear_map import LinearMap, ParentMap
from tests.simulators.shared_clips import KINDS, sound, wav_bytes
from tests.simulators.small_backbone import DIM, small_backbone, write_small_bundle
from trainer.server.gates import judge, latency, main
from trainer.server.material import HELD_OUT, TRAIN
from trainer.server.policy import Policy

POLICY = Policy()
GATES = {"canary", "accuracy", "size", "latency", "map"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips as a job lays them out."""
    folder = tmp_path_factory.mktemp("job")
    for kind in KINDS:
        for i in range(8):
            path = folder / (HELD_OUT if i % 4 == 0 else TRAIN) / kind / f"{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wav_bytes(sound(kind, i)))
    return folder


@pytest.fixture(scope="module")
def canary(small_bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    windows = np.stack([sound(kind, 99) for kind in KINDS])
    return windows, Embedder(small_bundle).embed(windows)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, canary: tuple[np.ndarray, np.ndarray]) -> Bundle:
    return write_small_bundle(tmp_path_factory.mktemp("parent") / "ear", canary=canary)


def a_map(parent: Bundle) -> ParentMap:
    return ParentMap(LinearMap.identity(DIM), parent.space, parent.sha256, 0.97, 0.2, 300, 300)


def refused(verdicts: dict[str, Any]) -> set[str]:
    assert set(verdicts["gates"]) == GATES and verdicts["passed"] == all(g["ok"] for g in verdicts["gates"].values())
    return {name for name, gate in verdicts["gates"].items() if not gate["ok"]}


def deaf() -> bytes:
    """The same network, whose filters hear next to nothing."""
    model = onnx.load_from_string(small_backbone())
    for constant in model.graph.initializer:
        if constant.name == "kernels":
            constant.CopyFrom(numpy_helper.from_array(1e-9 * numpy_helper.to_array(constant), "kernels"))
    return bytes(model.SerializeToString())


def test_an_ear_as_good_as_the_current_one_passes(parent: Bundle, folder: Path, tmp_path: Path, canary: Any) -> None:
    candidate = write_small_bundle(tmp_path / "new", version=2, canary=canary, parent=a_map(parent))
    verdicts = judge(parent, candidate, folder, POLICY)
    assert refused(verdicts) == set(), verdicts
    asked = verdicts["gates"]["accuracy"]
    assert asked["n"] == 8 and asked["current"] == asked["new"] > 0.8 and asked["interval"] == [0.0, 0.0]


Change = Callable[[Bundle, tuple[np.ndarray, np.ndarray]], dict[str, Any]]


def other_canary(parent: Bundle, canary: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    return {"canary": (canary[0], canary[1][::-1].copy())}


def no_canary(parent: Bundle, canary: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    return {"canary": None}


def hears_nothing(parent: Bundle, canary: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    return {"onnx": deaf(), "canary": (canary[0], deaf_answers(canary[0]))}


def is_large(parent: Bundle, canary: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    size = sum(entry.size for entry in parent.manifest.files.values())
    return {"documents": {"NOTES": os.urandom(int(1.2 * size))}}


def is_slow(parent: Bundle, canary: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    return {"hop_length": 1000}


def bad_map(parent: Bundle, canary: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    return {"parent": replace(a_map(parent), held_out_cosine=0.31)}


def foreign_map(parent: Bundle, canary: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    return {"parent": replace(a_map(parent), space=replace(parent.space, backbone_sha256="0" * 64))}


def deaf_answers(windows: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(deaf())
    return np.concatenate([session.run(None, {"waveform": w[None]})[0] for w in windows])


@pytest.mark.parametrize(
    ("change", "gate", "words"),
    [
        (other_canary, "canary", "come out with cosine"),
        (no_canary, "canary", "carries no canary"),
        (hears_nothing, "accuracy", "lost"),
        (is_large, "size", "wanted at most 2 times that"),
        (is_slow, "latency", "wanted at most 1.5 times that"),
        (bad_map, "map", "has cosine 0.3100 on groups"),
        (foreign_map, "map", "leads from another ear"),
    ],
)
def test_each_gate_stops_its_ear(
    change: Change, gate: str, words: str, parent: Bundle, folder: Path, tmp_path: Path, canary: Any
) -> None:
    given = {"version": 2, "canary": canary, "parent": a_map(parent), **change(parent, canary)}
    verdicts = judge(parent, write_small_bundle(tmp_path / "new", **given), folder, POLICY)
    assert refused(verdicts) == {gate}, verdicts["gates"]
    assert words in verdicts["gates"][gate]["words"]


def test_with_its_limit_lifted_each_gate_lets_its_ear_pass(
    parent: Bundle, folder: Path, tmp_path: Path, canary: Any
) -> None:
    """The mechanisms switched off: the same ears go through."""
    lifted = {
        other_canary: {"min_canary_cosine": 1e-9}, is_large: {"max_size_ratio": 10.0},
        is_slow: {"max_latency_ratio": 100.0}, bad_map: {"min_map_cosine": 0.1},
    }  # fmt: skip
    for change, limits in lifted.items():
        given = {"version": 2, "canary": canary, "parent": a_map(parent), **change(parent, canary)}
        candidate = write_small_bundle(tmp_path / change.__name__, **given)
        assert refused(judge(parent, candidate, folder, replace(POLICY, **limits))) == set(), change.__name__


def test_without_held_out_clips_nothing_passes(parent: Bundle, folder: Path, tmp_path: Path, canary: Any) -> None:
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / TRAIN).symlink_to(folder / TRAIN)
    candidate = write_small_bundle(tmp_path / "new", version=2, canary=canary)
    verdicts = judge(parent, candidate, tmp_path / "few", POLICY)
    assert refused(verdicts) == {"accuracy"} and "no clip of the fleet" in verdicts["gates"]["accuracy"]["words"]
    assert "carries no map" in verdicts["gates"]["map"]["words"]


def test_the_clock_is_read_for_both_ears_in_turn(parent: Bundle) -> None:
    """A machine that slows down while it is measured is no reason to refuse an ear."""
    now = [0.0]

    def slowing() -> float:
        now[0] += 1.0 + 0.01 * now[0]
        return now[0]

    ears = Embedder(parent), Embedder(parent)
    assert latency(ears, 1.5, clock=slowing).ok


def test_the_command_leaves_a_verdict(parent: Bundle, folder: Path, tmp_path: Path, canary: Any) -> None:
    candidate = write_small_bundle(tmp_path / "new", version=2, canary=canary, parent=a_map(parent))
    (tmp_path / "settings.json").write_text(json.dumps(POLICY.to_mapping()))
    words = [str(parent.path), str(candidate.path), str(folder), str(tmp_path / "settings.json")]
    assert main(words) == 0
    assert json.loads((folder / "gates.json").read_text())["passed"]
    (folder / "gates.json").unlink()
    (candidate.path / "backbone.onnx").write_bytes(b"torn")
    assert main(words) == 1 and not (folder / "gates.json").exists()
