"""Fault 20: some devices call sounds by wrong names. They are named, the others are not, and the fleet loses little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.records import BACKGROUND
from edge.space import EmbeddingSpace, FeatureSpace
from tests.faults import repetitions
from tests.trainer.server.label_flips import (
    Fleet,
    Material,
    drawn_sounds,
    fleet_of,
    flip,
    real_sounds,
    rotate,
    swap_pairs,
    teach_a_lot,
)
from trainer.server import influence
from trainer.server.influence import HELD_OUT, SUMS, UNUSUAL, Examination, Finding, accuse

SPACE = FeatureSpace(EmbeddingSpace("f7" * 32, sample_rate=16000, window_length=16000, hop_length=4000, dim=32))
MAX_DROP = 0.02
N_DEVICES = 20


@pytest.fixture(scope="module")
def drawn() -> Material:
    return drawn_sounds(SPACE)


@pytest.fixture(scope="module")
def real(shared_data: Path) -> Material:
    if not (shared_data / "fsdd").is_dir():
        pytest.skip("needs fsdd/ in the shared data")
    return real_sounds(shared_data)


@pytest.fixture(params=["drawn", "real"])
def material(request: pytest.FixtureRequest) -> Material:
    found: Material = request.getfixturevalue(request.param)
    return found


def examine(fleet: Fleet, *, shared: bool = False) -> tuple[list[Finding], list[Finding]]:
    held_out = fleet.held_out() if shared else []
    return accuse(Examination(fleet.material.space, fleet.members(), held_out, fleet.material.prior))


def accused(fleet: Fleet, *, shared: bool = False) -> set[str]:
    return {finding.device_id for finding in examine(fleet, shared=shared)[0]}


def attacked(material: Material, seed: int) -> Fleet:
    """10 % of the devices teach as much as the rest together, and swap the same two pairs of classes."""
    fleet = fleet_of(material, seed, n_known=4, n_records=(2, 2))
    for name in list(fleet.taught)[:2]:
        teach_a_lot(fleet, name, seed)
        swap_pairs(fleet, name)
    return fleet


# ---- honest fleets


@pytest.mark.faults
@pytest.mark.parametrize("shared", [False, True], ids=["sums only", "embeddings shared"])
@pytest.mark.parametrize("n_records", [(1, 1), (1, 4), (3, 3)], ids=str)
def test_honest_devices_are_not_accused(material: Material, shared: bool, n_records: tuple[int, int]) -> None:
    for seed in range(repetitions(2, 40)):
        fleet = fleet_of(material, seed, n_devices=12, n_records=n_records)
        assert accused(fleet, shared=shared) == set()


def test_an_honest_device_that_is_unusual_is_not_accused(material: Material) -> None:
    """It alone knows a class, or it knows a class by sounds that are like nobody's."""
    rng = np.random.default_rng(3)
    for seed in range(2):
        fleet = fleet_of(material, seed)
        grid = fleet.material.space.embedding.grid
        odd = [grid.quantize(_unit(rng.standard_normal((3, fleet.material.space.dim))))[0] for _ in range(4)]
        label = fleet.taught["device 03"][0][0]
        fleet.taught["device 03"] = [(label, windows) for windows in odd]
        fleet.taught["device 04"] = [*fleet.taught["device 04"], *(("mine alone", windows) for windows in odd)]
        for shared in (False, True):
            assert accused(fleet, shared=shared) == set()


def test_what_a_device_ignores_is_no_label(material: Material) -> None:
    """The background of one home is what another one taught; nobody is accused for that."""
    fleet = fleet_of(material, 5)
    for name in list(fleet.taught)[:3]:
        fleet.taught[name] = [(BACKGROUND if i % 3 == 0 else k, w) for i, (k, w) in enumerate(fleet.taught[name])]
    assert accused(fleet) == set() and accused(fleet, shared=True) == set()


def test_a_small_or_empty_fleet_accuses_nobody(drawn: Material) -> None:
    assert accuse(Examination(SPACE, [])) == ([], [])
    for n in (1, 2):
        fleet = fleet_of(drawn, 1, n_devices=n)
        rotate(fleet, "device 00")
        assert accused(fleet) == set(), "one device's word against another's"


# ---- devices that err


@pytest.mark.faults
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_devices_that_mix_up_their_labels_are_named_and_nobody_else(material: Material, share: float) -> None:
    """Each bad device gives its classes names of its own choice."""
    for seed in range(repetitions(2, 20)):
        fleet = fleet_of(material, seed, n_records=(2, 4))
        for name in list(fleet.taught)[: round(share * N_DEVICES)]:
            rotate(fleet, name)
        found = accused(fleet)
        assert found == fleet.flipped
        drop = fleet.accuracy(right=True) - fleet.accuracy(without=sorted(found))
        assert drop <= MAX_DROP


@pytest.mark.faults
@pytest.mark.parametrize("shared", [False, True], ids=["sums only", "embeddings shared"])
def test_ten_percent_that_attack_together_cost_two_points_at_most(material: Material, shared: bool) -> None:
    for seed in range(repetitions(2, 20)):
        fleet = attacked(material, seed)
        right, poisoned = fleet.accuracy(right=True), fleet.accuracy()
        assert right - poisoned > 0.1, "without quarantine the fleet loses much"
        found = accused(fleet, shared=shared)
        assert found == {"device 00", "device 01"}
        assert right - fleet.accuracy(without=sorted(found)) <= MAX_DROP


def test_the_offence_is_said_in_words(drawn: Material) -> None:
    fleet = fleet_of(drawn, 1)
    own = sorted({label for label, _ in fleet.truth["device 07"]})
    flip(fleet, "device 07", {own[0]: own[1], own[1]: own[0]})
    proven, _ = examine(fleet)
    assert {(f.label, f.heard_as) for f in proven} == {(own[0], own[1]), (own[1], own[0])}
    for finding in proven:
        assert finding.device == "device 07" and finding.evidence == SUMS and finding.strength > 1.0
        assert f"device 'device 07': its {finding.label!r} is what the other devices call" in finding.words
        assert set(finding.to_json()) >= {"device_id", "label", "heard_as", "evidence", "words", "quarantined"}


def test_one_recording_a_class_is_said_and_has_no_consequence(drawn: Material) -> None:
    fleet = fleet_of(drawn, 2, n_records=(1, 1))
    rotate(fleet, "device 05")
    proven, unusual = examine(fleet)
    assert proven == []
    said = [finding for finding in unusual if finding.device_id == "device 05"]
    assert said and all(f.evidence == UNUSUAL and "too few examples to tell" in f.words for f in said)
    assert fleet.accuracy(right=True) - fleet.accuracy() <= MAX_DROP, "nor can it do much harm"


def test_harm_is_found_where_sounds_are_shared(drawn: Material) -> None:
    """A device that calls many sounds of one class by the name of another, which it has rightly too."""
    fleet = fleet_of(drawn, 4, n_known=4, n_records=(2, 2))
    teach_a_lot(fleet, "device 00", 4, n_records=24, n_classes=2)
    flip(fleet, "device 00", {"b": "a"})
    right = fleet.accuracy(right=True)
    assert right - fleet.accuracy() > MAX_DROP
    proven, _ = examine(fleet, shared=True)
    assert {finding.device_id for finding in proven} <= {"device 00"}
    for finding in proven:
        assert finding.evidence in (SUMS, HELD_OUT)


# ---- what happens without the mechanisms


def test_by_windows_alone_those_who_teach_a_lot_have_the_others_accused(
    real: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the limit on one device's weight, honest devices are accused and the fleet is not saved."""

    def by_windows(taught: list[influence._Taught]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        n = np.array([own.n_windows for own in taught], dtype=np.float64)
        return np.asarray(n @ np.array([own.mean for own in taught], dtype=np.float64) / n.sum())

    monkeypatch.setattr(Examination, "centre_of", staticmethod(by_windows))
    fleet = attacked(real, 0)
    found = accused(fleet)
    assert found - fleet.flipped, "honest devices"
    assert fleet.accuracy(right=True) - fleet.accuracy(without=sorted(found)) > MAX_DROP


def test_several_that_err_alike_hide_each_other_until_the_worst_is_out() -> None:
    """So they are taken out one by one."""
    space = FeatureSpace(EmbeddingSpace("f8" * 32, sample_rate=16000, window_length=16000, hop_length=4000, dim=32))
    crowd = _crowd(drawn_sounds(space, n_classes=4, seed=1))
    at_once = {f.device_id for f in Examination(space, crowd.members()).findings() if f.evidence != UNUSUAL}
    assert at_once < crowd.flipped, "a look at all of them misses one"
    assert accused(crowd) == crowd.flipped


def test_one_recording_a_class_would_have_honest_devices_accused(
    drawn: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_of(drawn, 2, n_records=(1, 1))
    rotate(fleet, "device 05")
    monkeypatch.setattr(influence, "MIN_EXAMPLES", 0.0)
    assert accused(fleet), "the limit is what holds it back"


def test_taking_a_device_out_leaves_the_bits_that_were_there_without_it(drawn: Material) -> None:
    fleet = fleet_of(drawn, 6)
    for name in ("device 02", "device 11"):
        rotate(fleet, name)
    examination = Examination(SPACE, fleet.members(), fleet.held_out())
    accuse(examination)
    left = [pair for name in fleet.taught if name not in fleet.flipped for pair in fleet.taught[name]]
    assert set(examination.members) == set(fleet.taught) - fleet.flipped
    assert examination._total.packed().sha256 == fleet.sum_of(left).sha256


def _crowd(material: Material) -> Fleet:
    """Three of eight devices swap the same classes."""
    fleet = fleet_of(material, 1, n_devices=8, n_known=4, n_records=(3, 3))
    for name in list(fleet.taught)[:3]:
        swap_pairs(fleet, name)
    return fleet


def _unit(rows: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)
