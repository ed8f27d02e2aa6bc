"""The map between two ears: fitted on one half of the sounds, told by the other, carried by the bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edge.bundle import Bundle, open_bundle
from edge.embedder import Embedder
from edge.errors import AudioError, BundleError
from edge.linear_map import parent_map
from edge.space import EmbeddingSpace, FeatureSpace
from edge.statistics import SufficientStatistics
from export.amend import amend
from export.cli import main
from export.link import Pairs, _solver, embed_pairs, fit_map, link
from tests.bundles import TONES, noise, prior_of, tone, write_tiny_bundle, write_wav

SPACE = EmbeddingSpace("a" * 64, 16_000, 16_000, 4_000, 16)


def pairs(n: int, turned: np.ndarray, *, n_groups: int = 10, wrong: float = 0.0) -> Pairs:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 16)) + rng.standard_normal(16)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = x @ turned + wrong * rng.standard_normal((n, turned.shape[1]))
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    return Pairs(x, y, np.array([f"g{i % n_groups}" for i in range(n)]))


def rotation() -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(1).standard_normal((16, 16)))[0]


@pytest.mark.parametrize("n_groups", [1, 2, 10])
def test_a_rotation_is_found_to_rounding(n_groups: int) -> None:
    fit = fit_map(pairs(400, rotation(), n_groups=n_groups))
    assert fit.held_out_cosine > 1.0 - 1e-9 and fit.held_out_error < 1e-4
    assert np.abs(fit.map.matrix - rotation()).max() < 1e-3 and np.abs(fit.map.offset).max() < 1e-3
    data = pairs(50, rotation())
    there = fit.map.embeddings(SPACE.grid.quantize(data.old)[0], SPACE, replace(SPACE, backbone_sha256="b" * 64))
    assert np.abs(there.astype(int) - SPACE.grid.quantize(data.new)[0]).max() <= 12


def test_what_is_told_of_the_map_is_told_by_groups_that_it_did_not_see() -> None:
    """Chance that nothing explains: on windows it was fitted on the map looks good, on others it does not."""
    rng = np.random.default_rng(5)
    data = Pairs(*(x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.standard_normal((2, 24, 16))),
                 groups=np.array([f"g{i}" for i in range(24)]))  # fmt: skip
    fit = fit_map(data)
    weak = fit_map(replace(data, old=np.tile(data.old, (4, 1)), new=np.tile(data.new, (4, 1)),
                           groups=np.array([f"g{i}" for i in range(96)])))  # fmt: skip
    assert fit.held_out_cosine < 0.3 < weak.held_out_cosine, "copies in every part would be a map that saw the answers"


def test_the_strength_follows_the_noise() -> None:
    clean, noisy = fit_map(pairs(60, rotation())), fit_map(pairs(60, rotation(), wrong=0.5))
    assert clean.ridge < noisy.ridge and noisy.held_out_cosine < clean.held_out_cosine


def test_few_windows_of_an_ear_that_hardly_changed_lose_no_direction() -> None:
    """A ridge towards nothing forgets every direction that no window has; what was learnt lies there too."""
    rng = np.random.default_rng(2)
    change = np.eye(16) + 0.05 * rng.standard_normal((16, 16))
    few, many = pairs(9, change, n_groups=3), pairs(500, change)
    fit = fit_map(few)
    assert fit.from_identity and fit.held_out_cosine > 0.98
    drawn, lost = (_solver(few.old, few.new)(way, fit.ridge) for way in (True, False))
    cosine = [float(np.mean(np.sum(unit(many.old @ m + b) * many.new, axis=1))) for m, b in (drawn, lost)]
    assert cosine[0] > 0.97 and cosine[1] < 0.9
    assert not fit_map(pairs(400, rotation())).from_identity, "another ear is no change of this one"


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("link")
    rng = np.random.default_rng(3)
    for label, hz in TONES.items():
        (root / "sounds" / label).mkdir(parents=True)
        for i in range(6):
            samples = noise(1.5, rng, colour=i / 3.0 - 1.0) + tone(hz * (0.8 + 0.1 * i), 1.5, rng, level=0.02)
            write_wav(root / "sounds" / label / f"{i}.wav", samples)
    return root


@pytest.fixture(scope="module")
def parent(root: Path) -> Bundle:
    return write_tiny_bundle(root / "parent", with_prior=True)


@pytest.fixture(scope="module")
def child(root: Path) -> Bundle:
    return write_tiny_bundle(root / "child", seed=3)


def test_the_command_makes_a_bundle_that_knows_its_parent(root: Path, parent: Bundle, child: Bundle) -> None:
    words = ["link", child.path, "--parent", parent.path, "--data", f"toy={root / 'sounds'}", "--out", root / "linked"]
    result = CliRunner().invoke(main, [*map(str, words), "--prior-from-parent"])
    assert result.exit_code == 0, result.output
    told, made = json.loads(result.stdout), open_bundle(root / "linked")
    of = parent_map(made)
    assert of is not None and of.space == parent.space and of.bundle_sha256 == parent.sha256
    assert told["held_out_cosine"] == of.held_out_cosine > 0.85 and told["sha256"] == made.sha256
    assert made.space == child.space, "what devices know of the ear itself stays valid"
    prior, before = made.prior(), parent.prior()
    assert prior is not None and before is not None and prior.n_samples == before.n_samples
    assert made.manifest.extra["prior"] == {"mapped_from": parent.space.sha256}
    assert "moved through the map" in made.read("MODEL_CARD.md").decode()
    again = amend(made, root / "amended", version=2)
    assert parent_map(again) is not None


def test_mapped_embeddings_are_nearly_those_of_the_new_ear(root: Path, parent: Bundle, child: Bundle) -> None:
    fit = fit_map(embed_pairs(Embedder(parent), Embedder(child), {"toy": root / "sounds"}))
    rng = np.random.default_rng(11)
    windows = np.stack([noise(0.5, rng, colour=float(c)) for c in rng.uniform(-1.0, 0.6, 20)])
    old, new = (Embedder(b).quantized(windows)[0] for b in (parent, child))
    mapped = fit.map.embeddings(old, parent.space, child.space).astype(float)
    cosine = np.sum(mapped * new, axis=1) / np.linalg.norm(mapped, axis=1) / np.linalg.norm(new.astype(float), axis=1)
    assert cosine.mean() > 0.9
    sums = SufficientStatistics.from_samples(FeatureSpace(parent.space), old, ["a"] * len(old))
    mean = fit.map.statistics(sums, FeatureSpace(child.space)).means[0]
    wanted = new.mean(axis=0)
    assert mean @ wanted / np.linalg.norm(mean) / np.linalg.norm(wanted) > 0.95


def test_a_bundle_with_a_prior_keeps_its_own(root: Path, parent: Bundle, child: Bundle) -> None:
    own = amend(child, root / "own", prior=prior_of(child, n=40))
    made, _ = link(own, parent, {"toy": root / "sounds"}, root / "own-linked", prior_from_parent=True)
    assert made.prior() == own.prior() and "prior" not in made.manifest.extra
    bare, _ = link(child, parent, {"toy": root / "sounds"}, root / "bare")
    assert bare.prior() is None


def test_what_cannot_be_linked_is_refused(root: Path, parent: Bundle, child: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has the space of its parent"):
        link(parent, parent, {"toy": root / "sounds"}, tmp_path / "no")
    (tmp_path / "one").mkdir()
    write_wav(tmp_path / "one" / "a.wav", tone(500.0, 1.0, np.random.default_rng(0)))
    with pytest.raises(AudioError, match="wants 8 at least"):
        link(child, parent, {"one": tmp_path / "one"}, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_ears_that_cut_sound_otherwise_are_refused(root: Path, child: Bundle, small_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="wants the same windows"):
        embed_pairs(Embedder(small_bundle), Embedder(child), {"toy": root / "sounds"})
