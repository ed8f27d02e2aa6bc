"""A bundle again with the map from its parent's space: what devices learnt with the parent is not lost.

The same windows go through both ears; ridge regression fits the new embedding to the old one, or its change from the
old one: an adapted ear is its parent with a change, and where few windows tell the change, directions that none of them
has stay as they were instead of being lost. Which of the two, how strong the ridge is, and how good the map, is told by
groups of recordings that the fit never saw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.audio import audio_files_of, read_audio
from edge.bundle import Bundle, write_bundle
from edge.embedder import Embedder
from edge.errors import AudioError, BundleError
from edge.feature_input import second_graph
from edge.linear_map import LinearMap, ParentMap
from edge.space import FeatureSpace, l2_normalize
from edge.windows import carries_sound, windows_of

Array = NDArray[np.float64]
RIDGES = tuple(10.0**e for e in range(-6, 4))
"""Strengths tried, as shares of the mean square of one number of an embedding, times the number of windows."""
N_FOLDS = 4
MIN_WINDOWS = 8
MAX_WINDOWS_PER_FILE = 24


@dataclass(frozen=True, eq=False)
class Pairs:
    """The same n windows as both ears hear them, unit length: old (n, d_old), new (n, d_new). groups: (n,) words."""

    old: Array
    new: Array
    groups: NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class Fit:
    """held_out_cosine, held_out_error: mean cosine and mean length of the difference, on groups the fit never saw.

    ridge: the strength of ``RIDGES`` that those groups chose. from_identity: what the ridge draws the map to, the map
    that changes nothing or the one that keeps nothing.
    """

    map: LinearMap
    held_out_cosine: float
    held_out_error: float
    ridge: float
    from_identity: bool
    n_windows: int
    n_held_out: int


def embed_pairs(
    parent: Embedder, child: Embedder, sets: Mapping[str, Path], *, progress: Callable[[Path], object] = lambda p: None
) -> Pairs:
    """Embed the windows of all recordings that carry sound with both. A file, or what ``meta.csv`` says, is a group.

    Raises BundleError when the ears cut sound into other windows, AudioError without windows.
    """
    cut = [(e.space.sample_rate, e.space.window_length) for e in (parent, child)]
    if cut[0] != cut[1]:
        raise BundleError(
            f"the parent hears windows of {cut[0][1]} samples at {cut[0][0]} Hz, the bundle of {cut[1][1]} at "
            f"{cut[1][0]}; a linear map wants the same windows"
        )
    space, old, new, groups = child.space, [], [], []
    for name, folder in sets.items():
        named = _groups(folder)
        for path in audio_files_of(folder):
            _, windows = windows_of(read_audio(path, space.sample_rate), space.window_length, space.hop_length)
            rows = np.flatnonzero(carries_sound(windows))
            if len(rows):
                rows = rows[np.unique(np.linspace(0, len(rows) - 1, MAX_WINDOWS_PER_FILE).round().astype(int))]
                old.append(l2_normalize(parent.embed(windows[rows])))
                new.append(l2_normalize(child.embed(windows[rows])))
                inside = path.relative_to(folder).as_posix()
                groups += [f"{name}/{named.get(inside, inside)}"] * len(rows)
            progress(path)
    if len(groups) < MIN_WINDOWS:
        raise AudioError(f"{len(groups)} windows carry sound; a map between two ears wants {MIN_WINDOWS} at least")
    return Pairs(np.vstack(old), np.vstack(new), np.array(groups))


def fit_map(pairs: Pairs) -> Fit:
    """Fit new = old M + b by ridge regression about the means, in float64.

    Groups are dealt into four parts by the hash of their name; each part is asked of a fit on the others. The strength,
    and the map that the ridge draws to (zero, or the identity between ears of one dimension), with the highest mean
    cosine are then used on all windows. With one group alone, windows are dealt instead. Source: Hoerl and Kennard
    1970.
    """
    words = pairs.groups if len(set(pairs.groups)) > 1 else np.array([str(i) for i in range(len(pairs.groups))])
    part = _parts(words)
    same_dim = pairs.old.shape[1] == pairs.new.shape[1]
    ways = [(identity, ridge) for identity in ((False, True) if same_dim else (False,)) for ridge in RIDGES]
    cosines, errors = np.zeros(len(ways)), np.zeros(len(ways))
    for fold in range(N_FOLDS):
        asked = part == fold
        if not asked.any() or asked.all():
            continue
        solved = _solver(pairs.old[~asked], pairs.new[~asked])
        for i, way in enumerate(ways):
            matrix, offset = solved(*way)
            answer = _unit(pairs.old[asked] @ matrix + offset)
            cosines[i] += np.sum(answer * pairs.new[asked])
            errors[i] += np.sum(np.sqrt(np.sum((answer - pairs.new[asked]) ** 2, axis=1)))
    best = int(np.argmax(cosines))
    identity, ridge = ways[best]
    matrix, offset = _solver(pairs.old, pairs.new)(identity, ridge)
    n = len(pairs.old)
    told = LinearMap(matrix.astype(np.float32), offset.astype(np.float32))
    return Fit(told, float(cosines[best] / n), float(errors[best] / n), ridge, identity, n, n)


def link(
    bundle: Bundle,
    parent: Bundle,
    sets: Mapping[str, Path],
    out_dir: Path,
    *,
    prior_from_parent: bool = False,
    progress: Callable[[Path], object] = lambda path: None,
) -> tuple[Bundle, Fit]:
    """Write a copy of ``bundle`` with the map from the space of ``parent`` to ``out_dir``, which must not exist yet.

    prior_from_parent: where ``bundle`` has no prior, the parent's is moved through the map, and the copy says so.
    """
    if bundle.space == parent.space:
        raise BundleError(f"{bundle.name} {bundle.version} has the space of its parent; nothing has to be mapped")
    fit = fit_map(embed_pairs(Embedder(parent), Embedder(bundle), sets, progress=progress))
    of = ParentMap(
        fit.map, parent.space, parent.sha256, fit.held_out_cosine, fit.held_out_error, fit.n_windows, fit.n_held_out
    )
    prior, mapped = bundle.prior(), False
    before = parent.prior() if prior is None and prior_from_parent else None
    if before is not None:
        prior, mapped = fit.map.statistics(before, FeatureSpace(bundle.space)), True
    manifest = bundle.manifest
    card = manifest.file("model_card")
    extra = {**manifest.extra, **({"prior": {"mapped_from": parent.space.sha256}} if mapped else {})}
    made = write_bundle(
        out_dir,
        name=manifest.name,
        version=manifest.version,
        onnx=bundle.onnx_bytes(),
        input_name=manifest.input_name,
        output_name=manifest.output_name,
        sample_rate=manifest.sample_rate,
        window_length=manifest.window_length,
        hop_length=manifest.hop_length,
        dim=manifest.dim,
        grid=manifest.grid,
        licence=manifest.licence,
        model_card=(bundle.read(card).decode("utf-8") if card else "") + _words(parent, fit, mapped),
        prior=prior,
        canary=bundle.canary(),
        parent=of,
        features=second_graph(bundle),
        detection=manifest.detection,
        documents={n: bundle.read(n) for n, e in manifest.files.items() if e.role == "document"},
        extra=extra,
    )
    return made, fit


def figures(fit: Fit) -> dict[str, Any]:
    """The fit without its numbers, as JSON values."""
    return {k: v for k, v in asdict(fit).items() if k != "map"}


def _words(parent: Bundle, fit: Fit, mapped: bool) -> str:
    words = (
        f"\n## From the parent\n\nA linear map leads from the space of {parent.name} {parent.version} "
        f"(`{parent.space.sha256[:12]}`) to this one: fitted on {fit.n_windows} windows, ridge {fit.ridge:g} "
        f"{'towards no change' if fit.from_identity else 'towards nothing'}; on "
        f"groups that a fit had not seen, mean cosine {fit.held_out_cosine:.4f}, mean difference "
        f"{fit.held_out_error:.4f} of the length of an embedding.\n"
    )
    if mapped:
        words += (
            "\nThe prior is that of the parent, moved through the map as bare sums. It is not made of recordings that "
            "this ear heard; a prior made with `soundkeep-export prior` is better.\n"
        )
    return words


def _groups(folder: Path) -> dict[str, str]:
    """Group of each clip that ``meta.csv`` names."""
    from trainer.datasets import read_meta

    rows = read_meta(folder)[1]
    return {r["clip"]: g for r in rows if (g := r.get("fold_or_speaker") or r.get("group"))}


def _parts(words: Sequence[str] | NDArray[np.str_]) -> NDArray[np.int64]:
    """Deal groups into ``N_FOLDS`` parts in the order of their hashes, (n,): every part gets some where there are."""
    ordered = sorted(set(map(str, words)), key=lambda word: hashlib.sha256(word.encode()).digest())
    place = {word: i % N_FOLDS for i, word in enumerate(ordered)}
    return np.array([place[str(word)] for word in words], dtype=np.int64)


def _solver(old: Array, new: Array) -> Callable[[bool, float], tuple[Array, Array]]:
    """One eigendecomposition for all strengths, and for both maps that the ridge may draw to."""
    x0, y0 = old.mean(axis=0), new.mean(axis=0)
    x, y = old - x0, new - y0
    values, vectors = np.linalg.eigh(x.T @ x)
    cross = vectors.T @ (x.T @ y)
    values = np.maximum(values, 0.0)

    def solve(from_identity: bool, ridge: float) -> tuple[Array, Array]:
        strength = max(ridge * len(old) / old.shape[1], 1e-12)
        kept = strength * vectors.T if from_identity else 0.0
        matrix = vectors @ ((cross + kept) / (values + strength)[:, None])
        return matrix, y0 - x0 @ matrix

    return solve


def _unit(x: Array) -> Array:
    length = np.sqrt(np.sum(x * x, axis=1, keepdims=True))
    return np.asarray(x / np.where(length > 0.0, length, 1.0))
