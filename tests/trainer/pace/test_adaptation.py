"""Adaptation session by session: each part of PACE switched off changes a property that is measured here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.pace.small_lessons import bits, lesson, quick, sounds, student, ticking, unchanged
from trainer.backbones.backbone import block_outputs
from trainer.backbones.checkpoint import Adapter, Checkpoint
from trainer.backbones.student import Student
from trainer.errors import TrainingError
from trainer.pace.adaptation import Adaptation, block_similarities, unlearned
from trainer.pace.cka import linear_cka
from trainer.pace.fitting import Fitting, Lesson
from trainer.pace.lora import with_lora
from trainer.pace.settings import PaceSettings
from trainer.pace.subspace import leading_subspace, uncentred_covariances

BASE = student()


def adapted(settings: PaceSettings, n_sessions: int = 1, said: list[str] | None = None, **more: Any) -> Adaptation:
    adaptation = Adaptation(BASE, settings, clock=ticking(), say=(said if said is not None else []).append)
    for number in range(1, n_sessions + 1):
        adaptation.learn(lesson(number, **more), n_clips=24)
    return adaptation


def relative(part: Tensor, whole: Tensor) -> float:
    return float(torch.linalg.norm(part) / torch.linalg.norm(whole))


def test_blocks_below_the_boundary_put_out_the_same_bits_and_without_it_they_do_not() -> None:
    features, _ = sounds(3, 8, first=10, seed=5)
    said: list[str] = []
    gentle = quick(cka_threshold=0.94, probe_epochs=2, backbone_learning_rate=0.02)
    late, whole = adapted(gentle, said=said), adapted(quick(cka_threshold=None))
    boundary = late.lowest_block
    assert boundary is not None and 1 <= boundary < 4 and whole.lowest_block == 0
    before = block_outputs(BASE, features)
    for adaptation in (late, whole):
        after = block_outputs(adaptation.current, features)
        similar = [linear_cka(a, b) for a, b in zip(before, after, strict=True)]
        same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        if adaptation is late:
            assert same == [i < boundary for i in range(4)] and min(similar[:boundary]) == pytest.approx(1.0, abs=1e-9)
        else:
            assert not any(same) and min(similar[:boundary]) < 0.999
        assert similar[3] < 0.94
    report = late.reports[0]
    assert len(report.similarities) == 4 and not whole.reports[0].similarities
    assert all(s >= 0.94 for s in report.similarities[:boundary]) and report.similarities[boundary] < 0.94
    assert any(f"blocks from {boundary + 1} on are adapted" in words for words in said)
    assert {name.split(".")[1] for name in late.adapters[0].down} == {str(i) for i in range(boundary, 4)}


def test_when_no_block_moves_the_last_is_adapted() -> None:
    adaptation = adapted(quick(cka_threshold=0.0))
    assert adaptation.lowest_block == 3
    assert not unchanged(adaptation.current, bits(BASE))


def test_the_probe_leaves_nothing_behind() -> None:
    """With no rate for the adapter, a probe of another length changes no bit of what follows from the same boundary."""
    one, two = (adapted(quick(cka_threshold=0.0, probe_epochs=n)) for n in (1, 3))
    assert one.reports[0].similarities != two.reports[0].similarities
    assert unchanged(one.current, bits(two.current))


def test_two_backbones_alike_are_alike_in_every_block_whatever_the_batch() -> None:
    features, _ = sounds(2, 5)
    assert block_similarities(BASE, student(), features, batch_size=3) == pytest.approx((1.0,) * 4, abs=1e-9)
    other = student(seed=1)
    assert max(block_similarities(BASE, other, features)) < 0.999
    assert block_similarities(BASE, other, features, batch_size=3) == pytest.approx(
        block_similarities(BASE, other, features, batch_size=64), abs=1e-6
    )


def bases_of_session_two(adaptation: Adaptation, settings: PaceSettings) -> dict[str, Tensor]:
    """The subspaces that the second session was given, computed here from the session's own formula."""
    first = Checkpoint(BASE, tuple(adaptation.adapters[:1])).merged()
    names = list(adaptation.adapters[1].down)
    features = lesson(2).features
    assert len(features) <= settings.covariance_windows
    with unlearned(first, adaptation.adapters[:1] if settings.subtraction else []) as model:
        covariances = uncentred_covariances(model, names, features)
    return {n: leading_subspace(c, settings.kept_share).float() for n, c in covariances.items()}


SPACIOUS = {"cka_threshold": None, "kept_share": 0.9}


@pytest.mark.parametrize("projection", ["leading", "complement", "none"])
def test_what_session_two_adds_lies_in_its_subspace_or_out_of_it(projection: Any) -> None:
    settings = quick(projection=projection, **SPACIOUS)
    adaptation = adapted(settings, 2)
    bases = bases_of_session_two(adaptation, settings)
    for name, delta in adaptation.adapters[1].deltas().items():
        d = delta.flatten(1)
        assert float(torch.linalg.norm(d)) > 0.0
        inside = d @ bases[name] @ bases[name].T
        outside = d - inside
        if projection == "leading":
            assert relative(outside, d) < 1e-5
        elif projection == "complement":
            assert relative(inside, d) < 1e-5
        else:
            assert relative(outside, d) > 0.05 and relative(inside, d) > 0.05
    ranks = adaptation.reports[1].subspace
    if projection == "none":
        assert ranks == {}
    else:
        assert ranks == {n: (b.shape[1], b.shape[0]) for n, b in bases.items()}
        assert all(k < d for k, d in ranks.values())


def test_an_initial_a_that_is_not_projected_leaves_a_part_outside() -> None:
    settings = quick(project_initial=False, **SPACIOUS)
    adaptation = adapted(settings, 2)
    bases = bases_of_session_two(adaptation, settings)
    for name, delta in adaptation.adapters[1].deltas().items():
        d = delta.flatten(1)
        assert relative(d - d @ bases[name] @ bases[name].T, d) > 0.05


def test_the_first_session_is_not_projected() -> None:
    for projection in ("leading", "complement"):
        assert adapted(quick(projection=projection, epochs=1)).reports[0].subspace == {}


def test_b_is_projected_too_when_asked() -> None:
    """Where fan-out is a multiple of fan-in: a shortcut of 6 to 12 channels, say."""
    settings = quick(project_up=True, targets=("shortcut.0",), cka_threshold=None, kept_share=0.8)
    narrow = Student(BASE.settings.__class__(BASE.settings.frontend, (6, 6, 12, 12, 24), (1, 2, 2, 2), 16)).eval()
    found = {}
    for asked in (False, True):
        adaptation = Adaptation(narrow, quick(**{**vars(settings), "project_up": asked}), clock=ticking())
        adaptation.lowest_block = 1  # block 0 keeps its width and has no shortcut
        for number in (1, 2):
            adaptation.learn(lesson(number), n_clips=24)
        (first, second) = adaptation.adapters
        merged = Checkpoint(narrow, (first,)).merged()
        names = list(second.down)
        with unlearned(merged, [first]) as model:
            covariances = uncentred_covariances(model, names, lesson(2).features)
        name = "blocks.1.shortcut.0"
        basis = leading_subspace(covariances[name], 0.8).float()
        up = second.up[name].flatten(1)
        inside = torch.cat([basis @ basis.T @ part for part in up.split(6)])
        found[asked] = relative(up - inside, up)
    assert found[True] < 1e-5 and found[False] > 0.05, found


def drift(adaptation: Adaptation, features: Tensor, after_first: Tensor) -> float:
    """How far session 2 moved embeddings of session 1's classes, over how far these are spread."""
    with torch.no_grad():
        z = adaptation.current.encode(features)
    return relative(z - after_first, after_first - after_first.mean(dim=0))


def test_where_updates_may_go_decides_how_far_old_classes_drift() -> None:
    """From the same first session. Out of what the current data excites least, anywhere most, inside it in between.

    Leading is what PACE does; it lessens drift only as far as the subspace is narrow: here 0.9 of the trace, not 0.99.
    """
    features, _ = sounds(3, 8, first=10, seed=5)
    found = {"leading": 0.0, "complement": 0.0, "none": 0.0}
    for seed in (0, 1):
        for projection in found:
            gentle = quick(
                projection=projection, backbone_learning_rate=0.02, later_learning_rate=0.01, epochs=6,
                boundary_weight=0.0, seed=seed, **SPACIOUS,
            )  # fmt: skip
            adaptation = adapted(gentle, seed=100 * seed)
            with torch.no_grad():
                after_first = adaptation.current.encode(features)
            adaptation.learn(lesson(2, seed=100 * seed), n_clips=24)
            found[projection] += drift(adaptation, features, after_first) / 2
    assert found["complement"] < 0.7 * found["leading"], found
    assert found["leading"] < 0.85 * found["none"], found


def adapter_of(model: Student, name: str, seed: int, size: float = 0.2) -> Adapter:
    lora = with_lora(model, name, range(4), rank=2, alpha=2, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for b in lora.up.values():
            b.copy_(size * torch.randn(b.shape, generator=generator))
    return lora.adapter()


def test_unlearned_is_the_base_less_what_was_added_and_every_bit_comes_back() -> None:
    adapters = [adapter_of(BASE, "one", 1), adapter_of(BASE, "two", 2)]
    current = Checkpoint(BASE, tuple(adapters)).merged()
    before = bits(current)
    with unlearned(current, adapters) as model:
        assert model is current
        for name in adapters[0].down:
            total = sum(a.deltas()[name] for a in adapters)
            assert isinstance(total, Tensor) and float(total.abs().max()) > 0.01
            wanted = BASE.get_parameter(f"{name}.weight") - total
            assert torch.allclose(model.get_parameter(f"{name}.weight"), wanted, atol=1e-6)
    assert unchanged(current, before)
    with pytest.raises(ZeroDivisionError), unlearned(current, adapters):
        raise ZeroDivisionError
    assert unchanged(current, before)


def test_without_adapters_or_with_adapters_of_zero_nothing_is_unlearned() -> None:
    before = bits(BASE)
    for adapters in ([], [adapter_of(BASE, "zero", 1, size=0.0)]):
        with unlearned(BASE, adapters) as model:
            assert unchanged(model, before)


def test_subtraction_turns_the_subspace() -> None:
    """||P1 - P2||_F of the subspaces with and without it, and session 2 ends elsewhere from the same first session.

    The lowest module receives the same either way: nothing below it was adapted.
    """
    with_it, without = (adapted(quick(subtraction=s, **SPACIOUS), 2) for s in (True, False))
    bases = [bases_of_session_two(with_it, quick(subtraction=s, **SPACIOUS)) for s in (True, False)]
    turned = {n: float(torch.linalg.norm(a @ a.T - bases[1][n] @ bases[1][n].T)) for n, a in bases[0].items()}
    assert turned["blocks.0.first"] == 0.0
    assert min(turned[f"blocks.{i}.second"] for i in (1, 2, 3)) > 0.2, turned
    assert all(torch.equal(a, without.adapters[0].up[n]) for n, a in with_it.adapters[0].up.items())
    assert not unchanged(with_it.current, bits(without.current))


def test_the_boundary_loss_is_there_in_every_adapted_session_but_not_in_naive_ones() -> None:
    noisy: dict[str, Any] = {"noise": 1.5}
    short: dict[str, Any] = {"misread_share": 0.0, "epochs": 1, "cka_threshold": None}
    with_it, without = (adapted(quick(boundary_weight=w, **short), 2, **noisy) for w in (1.0, 0.0))
    assert all(r.boundary_points > 0 for r in with_it.reports)
    assert all(r.boundary_points == 0 and "boundary set" not in r.seconds for r in without.reports)
    assert not unchanged(with_it.current, bits(without.current))
    naive = adapted(quick(first_session="naive", **short), 1, **noisy)
    assert naive.reports[0].boundary_points == 0
    said: list[str] = []
    adapted(quick(**{**short, "misread_share": 1.0}), said=said)
    assert "session 1: no sample is boundary-prone; the boundary loss is 0" in said


def test_naive_moves_the_head_with_the_backbone_and_improved_does_not() -> None:
    """The same warm-up; then the head is frozen, or not. A naive session adapts every block."""
    heads: dict[str, list[Tensor]] = {"naive": [], "improved": []}
    for way, seen in heads.items():
        adaptation = Adaptation(BASE, quick(first_session=way, cka_threshold=None), clock=ticking())

        def look(fitting: Fitting, terms: dict[str, float], way: str = way, seen: list[Tensor] = seen) -> None:
            seen.append(fitting.head.weight.detach().clone())
            assert fitting.head.weight.requires_grad is (way == "naive"), "no gradient is spent or clipped for it"

        adaptation.learn(lesson(1), n_clips=24, after_epoch=look)
        assert adaptation.lowest_block == 0 and not adaptation.reports[0].similarities
    assert all(torch.equal(w, heads["improved"][0]) for w in heads["improved"])
    assert not torch.equal(heads["naive"][0], heads["naive"][-1])
    assert len(heads["naive"]) == len(heads["improved"]) == 4


def test_the_first_session_and_later_ones_have_rates_of_their_own() -> None:
    frozen = adapted(quick(backbone_learning_rate=0.0, cka_threshold=None), 2)
    assert not any(bool(b.any()) for b in frozen.adapters[0].up.values())
    assert any(bool(b.any()) for b in frozen.adapters[1].up.values())
    once = adapted(quick(later_learning_rate=0.0, cka_threshold=None), 2)
    assert any(bool(b.any()) for b in once.adapters[0].up.values())
    assert not any(bool(b.any()) for b in once.adapters[1].up.values())


@pytest.mark.parametrize(
    ("n_clips", "stop", "whats"),
    [
        ((100, 120, 1, 50), 220, ["first", "later", "later", "frozen"]),
        ((221, 1, 1, 1), 220, ["first", "frozen", "frozen", "frozen"]),
        ((10, 10, 10, 10), 1000, ["first", "later", "later", "later"]),
        ((1, 1, 1, 1), 0, ["first", "frozen", "frozen", "frozen"]),
    ],
)
def test_the_backbone_freezes_after_the_session_that_passes_so_many_clips(
    n_clips: tuple[int, ...], stop: int, whats: list[str]
) -> None:
    """T3 is the first session with more than N_stop clips seen, and still adapts."""
    settings = quick(adapted_sessions=None, stop_samples=stop, epochs=1, cka_threshold=None, boundary_weight=0.0)
    adaptation = Adaptation(BASE, settings, clock=ticking())
    for number, n in enumerate(n_clips, start=1):
        before = bits(adaptation.current)
        report = adaptation.learn(lesson(number, n_classes=2, n_each=4), n_clips=n)
        assert report.what == whats[number - 1]
        assert unchanged(adaptation.current, before) is (report.what == "frozen")
    assert adaptation.frozen is (whats[-1] == "frozen")
    assert adaptation.n_clips_seen == sum(n_clips)


@pytest.mark.parametrize("last", [0, 1, 3])
def test_the_last_session_can_be_said(last: int) -> None:
    settings = quick(adapted_sessions=last, stop_samples=1, epochs=1, cka_threshold=None, boundary_weight=0.0)
    adaptation = Adaptation(BASE, settings, clock=ticking())
    assert adaptation.frozen is (last == 0)
    for number in range(1, 5):
        adaptation.learn(lesson(number, n_classes=2, n_each=4), n_clips=300)
        assert adaptation.frozen is (number >= last)
    assert [r.what in ("first", "later") for r in adaptation.reports] == [n <= last for n in range(1, 5)]


def test_no_adaptation_changes_no_bit_and_the_base_is_never_touched() -> None:
    before = bits(BASE)
    frozen = adapted(quick(first_session="none"), 2)
    assert frozen.frozen and [r.what for r in frozen.reports] == ["frozen", "frozen"] and not frozen.adapters
    assert unchanged(frozen.current, before)
    moved = adapted(quick(), 2)
    assert not unchanged(moved.current, before)
    assert unchanged(BASE, before) and moved.base is BASE


def test_current_is_the_base_with_its_adapters_to_the_bit() -> None:
    adaptation = adapted(quick(), 2)
    assert [a.name for a in adaptation.adapters] == ["session1", "session2"]
    assert unchanged(adaptation.current, bits(Checkpoint(BASE, tuple(adaptation.adapters)).merged()))


def test_sessions_that_cannot_be_trained_on_are_said_and_leave_the_backbone() -> None:
    said: list[str] = []
    adaptation = Adaptation(BASE, quick(adapted_sessions=5), clock=ticking(), say=said.append)
    none = Lesson(1, lesson().features[:0], lesson().targets[:0], 0)
    one = lesson(2, n_classes=1)
    assert adaptation.learn(none, n_clips=0).what == "empty"
    assert adaptation.learn(one, n_clips=8).what == "one class"
    assert unchanged(adaptation.current, bits(BASE))
    assert said == [
        "session 1 has no clips; the backbone stays as it is",
        "session 2 has one class, which no classifier can be trained on; the backbone stays as it is",
    ]
    assert adaptation.learn(lesson(3), n_clips=24).what == "first", "the first that can be adapted to"
    assert adaptation.learn(lesson(4), n_clips=24).what == "later"


def test_a_class_with_one_sample_is_adapted_to() -> None:
    features, targets = sounds(2, 6)
    uneven = Lesson(1, features[5:], targets[5:], 2)
    adaptation = Adaptation(BASE, quick(misread_share=0.0), clock=ticking())
    assert adaptation.learn(uneven, n_clips=7).what == "first"
    assert not unchanged(adaptation.current, bits(BASE))
    assert all(bool(torch.isfinite(p).all()) for p in adaptation.current.parameters())


def test_a_seed_decides_every_bit() -> None:
    one, again, other = (adapted(quick(seed=seed, misread_share=0.0, epochs=2), 2) for seed in (0, 0, 1))
    assert unchanged(again.current, bits(one.current)) and not unchanged(other.current, bits(one.current))
    assert again.reports == one.reports


def test_a_session_that_fails_leaves_the_backbone_as_it_was() -> None:
    adaptation = adapted(quick(adapted_sessions=5))
    before, n_seen = bits(adaptation.current), adaptation.n_clips_seen
    bad = lesson(2)
    bad.features[3] = float("nan")
    with pytest.raises(TrainingError, match="session 2"):
        adaptation.learn(bad, n_clips=24)
    assert unchanged(adaptation.current, before) and len(adaptation.adapters) == 1
    assert adaptation.n_clips_seen == n_seen and not adaptation.frozen


def test_sessions_taken_up_and_an_epoch_resumed_end_at_the_same_bits() -> None:
    """Interrupted in the second epoch of session 2: what was kept is enough."""
    settings = quick(misread_share=0.0)
    kept: dict[str, Any] = {}

    def keep(fitting: Fitting, terms: dict[str, float]) -> None:
        if fitting.stage.session == 2 and fitting.epoch == 2:
            kept.update(state=fitting.state())

    whole = Adaptation(BASE, settings, clock=ticking())
    for number in (1, 2):
        whole.learn(lesson(number), n_clips=24, after_epoch=keep)
    again = Adaptation(BASE, settings, clock=ticking())
    again.take(whole.adapters[0], n_clips=24, lowest_block=whole.lowest_block)
    epochs: list[int] = []
    again.learn(
        lesson(2),
        n_clips=24,
        resume=lambda fitting: fitting.restore(kept["state"], 2),
        after_epoch=lambda fitting, terms: epochs.append(fitting.epoch),
    )
    assert epochs == [3, 4]
    assert unchanged(again.current, bits(whole.current)) and again.frozen
    assert again.n_clips_seen == whole.n_clips_seen


def test_the_clock_tells_the_parts() -> None:
    seconds = adapted(quick(misread_share=0.0), 2).reports
    assert set(seconds[0].seconds) == {"probe", "head", "boundary set", "backbone"}
    assert set(seconds[1].seconds) == {"head", "boundary set", "subspace", "backbone"}
    assert all(value == 1.0 for report in seconds for value in report.seconds.values())
