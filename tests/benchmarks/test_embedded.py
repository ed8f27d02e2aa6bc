"""Windows are embedded once, kept under their space and listing, and put together without mixing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.embedded import embed_sets, joined, prior_labels, prior_of
from edge.bundle import Bundle
from edge.embedder import Embedder
from edge.errors import AudioError
from tests.benchmarks.recordings import KINDS, recordings


def test_the_prior_is_named_as_the_exporter_names_it() -> None:
    data = recordings()
    assert set(prior_labels(data, data.rows(data.where(sets=("esc50",)))).tolist()) == {f"esc50/{k}" for k in KINDS}
    assert prior_of(data, [0, 13]).labels == ("esc50/bell", "esc50/dog")


def test_sets_are_put_together_without_mixing_their_clips() -> None:
    a, b = recordings(seed=0), recordings(seed=1)
    both = joined([a, b])
    shifted = [c + len(a.clips) for c in range(len(b.clips))]
    assert np.array_equal(both.features[both.rows(shifted)], b.features)
    assert np.array_equal(both.features[both.rows(range(len(a.clips)))], a.features)


def test_windows_are_embedded_once_and_again_for_another_listing(tmp_path: Path, small_bundle: Bundle) -> None:
    soundfile = pytest.importorskip("soundfile", reason="needs soundfile to write recordings")
    rng = np.random.default_rng(0)
    for i in range(3):
        folder = tmp_path / "data" / "house" / "bell"
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{i}.wav", 0.3 * rng.standard_normal(24000), 16000)
    embedder = Embedder(small_bundle)
    cache = tmp_path / "cache"
    first = embed_sets(embedder, [tmp_path / "data"], cache=cache)
    kept = {p.name for p in cache.iterdir()}
    again = embed_sets(embedder, [tmp_path / "data"], cache=cache)
    assert {p.name for p in cache.iterdir()} == kept
    assert np.array_equal(first.features, again.features)
    assert first.clips.seconds.tolist() == [1.5, 1.5, 1.5]
    assert first.clip.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    soundfile.write(tmp_path / "data" / "house" / "bell" / "3.wav", np.zeros(24000), 16000)
    more = embed_sets(embedder, [tmp_path / "data"], cache=cache)
    assert len({p.name for p in cache.iterdir()} - kept) == 1
    assert not more.sounding[more.clip == 3].any()
    thin = embed_sets(embedder, [tmp_path / "data"], cache=cache, max_clips=1)
    assert len(thin.clips) == len(set(more.clips.held_out.tolist()))
    with pytest.raises(AudioError, match="no set called"):
        embed_sets(embedder, [tmp_path / "data"], cache=cache, names=("kitchen",))
