from __future__ import annotations

import numpy as np
import pytest

from export.c.liveness import overlapping, pack
from export.c.plan import SCRATCH, Precision, plan_arena
from export.c.read_graph import read_network
from tests.conftest import REPOSITORY
from tests.export.c.written import made_windows, sibling, written

EAR = REPOSITORY / "edge" / "bundles" / "ear" / "backbone.onnx"


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_the_ears_plan_reaches_what_no_plan_can_go_below(precision: Precision) -> None:
    network = read_network(EAR.read_bytes(), "waveform", "embedding", 16000)
    arena = plan_arena(network, precision)
    assert arena.n_bytes == arena.least_bytes < arena.naive_bytes / 2
    assert overlapping(arena.tensors, pack(arena.tensors)) == []


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_without_sharing_or_without_sums_in_place_it_needs_more(precision: Precision) -> None:
    """On the shape of the ear for microcontrollers; in a smaller one the front end alone fills the arena."""
    network = sibling()
    best = plan_arena(network, precision).n_bytes
    in_its_own_place = plan_arena(network, precision, in_place=False).n_bytes
    assert best < in_its_own_place < plan_arena(network, precision, in_place=False, share=False).n_bytes
    assert best < plan_arena(network, precision, share=False).n_bytes


def test_a_sum_lies_where_one_of_its_inputs_lay() -> None:
    network = written().network
    arena = plan_arena(network, "int8")
    sums = [step for step in network.steps if type(step).__name__ == "Add"]
    assert len(sums) == 4
    assert all(arena.offsets[s.output] in (arena.offsets[s.input], arena.offsets[s.other]) for s in sums)  # type: ignore[union-attr]
    assert arena.offsets[SCRATCH] + 4 * (512 + 257) <= arena.n_bytes


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_a_poisoned_arena_gives_the_same_and_nothing_beside_it_changes(precision: Precision) -> None:
    build = written().build(precision)
    pcm = np.rint(made_windows(3) * 32767).astype(np.int16)
    wanted, grid = build.embed_pcm(pcm, np.zeros(build.arena_bytes // 8, dtype=np.uint64))
    rng = np.random.default_rng(1)
    for _ in range(3):
        around = rng.integers(0, 2**64, build.arena_bytes // 8 + 64, dtype=np.uint64)
        before = around.copy()
        got = build.embed_pcm(pcm, around[32:-32])
        assert np.array_equal(got[0], wanted) and np.array_equal(got[1], grid)
        assert np.array_equal(around[:32], before[:32]) and np.array_equal(around[-32:], before[-32:])


def test_a_plan_that_lets_tensors_overlap_gives_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planner matters: lives that end too early make a plan that is smaller and wrong."""
    from export.c import plan
    from export.c.host import HostBuild
    from export.c.library import Library

    made = written()
    true_pack = plan.pack
    monkeypatch.setattr(
        plan, "pack", lambda ts: true_pack([plan.Tensor(t.name, t.n_bytes, t.first, t.first) for t in ts])
    )
    wrong = plan_arena(made.network, "float32")
    folder = made.path.with_name("overlapping")
    if not folder.exists():
        Library(made.bundle, made.network, {"float32": wrong}).write(folder)
    pcm = np.rint(made_windows(2) * 32767).astype(np.int16)
    got = HostBuild(folder, made.bundle.space, "float32", flags=("-O1",)).embed_pcm(pcm)[0]
    assert not np.allclose(got, made.build("float32").embed_pcm(pcm)[0])
