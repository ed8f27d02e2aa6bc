"""Which score tells a taught sound from one that nobody taught: AUROC of known against unknown classes.

Half of the classes is taught from clips of the training groups; asked are held-out clips of the taught half and of the
other half. A clip's score is the mean over its windows that carry sound of the best class's score. ``other kinds``:
the prior holds none of the sets in question, so the unknown classes are new to everything; ``shipped``: it holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from benchmarks.alarm_trial import OWN_SHARE, own_distance  # noqa: E402
from benchmarks.counting import auroc  # noqa: E402
from benchmarks.draws import shots_of, task_clips, taught  # noqa: E402
from benchmarks.embedded import QUICK_CLIPS, Embedded, embed_sets  # noqa: E402
from benchmarks.readouts import priors_for  # noqa: E402
from edge.bundle import open_bundle  # noqa: E402
from edge.embedder import Embedder  # noqa: E402
from edge.heads import Background, fit_detection, fit_ridge  # noqa: E402
from edge.scatter import ridge_term, solve, total_scatter, within_scatter  # noqa: E402
from edge.statistics import SufficientStatistics  # noqa: E402

Array = NDArray[np.float64]
RIDGE = 4096.0


def candidate_scores(
    known: SufficientStatistics, prior: SufficientStatistics | None, features: NDArray[np.int16]
) -> dict[str, Array]:
    """Scores (n,) of windows (n, d) on the grid under every candidate; higher means known.

    Mahalanobis: distance to the nearest taught mean under the pooled scatter; relative: less the distance to the mean
    of everything under the total scatter (Ren et al. 2021); leverage: x' (G + ridge term)^-1 x,
    small for a point whose like was seen often.
    """
    x = features.astype(np.float64)
    space = known.space
    background = Background.from_statistics(prior, 1.0, None, RIDGE, space)
    head = fit_detection(known, background, ridge=RIDGE)
    z, logits = head.z(features), fit_ridge(known, ridge=RIDGE, prior=prior).scores(features)
    best_two = np.sort(logits, axis=1)[:, -2:]
    pool = known if prior is None else known + prior.relabel({label: f"prior {label}" for label in prior.labels})
    term, mass = ridge_term(space, RIDGE), pool.n_samples + RIDGE
    steps = x[:, None, :] - known.means[None, :, :]
    nearest = mass * _squared(steps.reshape(-1, space.dim), within_scatter(pool), term).reshape(len(x), -1).min(axis=1)
    centre = np.sum(pool.sums, axis=0) / pool.n_samples
    common = mass * _squared(x - centre, total_scatter(pool), term)
    scores = {
        "best z": z.max(axis=1),
        "best ridge logit": logits.max(axis=1),
        "ridge margin": best_two[:, 1] - best_two[:, 0],
        "-Mahalanobis": -nearest,
        "-relative Mahalanobis": common - nearest,
        "-leverage": -_squared(x, pool.gram, term),
        "logit / sqrt(1 + leverage)": logits.max(axis=1) / np.sqrt(1.0 + _squared(x, pool.gram, term)),
    }
    against = z - head.rivals.against(features, head.admitted)
    scores["z against rivals"] = against.max(axis=1)
    scores["z against rivals, own distance"] = (against - OWN_SHARE * own_distance(head)).max(axis=1)
    return scores


def _squared(steps: Array, scatter: Array, term: float) -> Array:
    """Each row's x' (scatter + term I)^-1 x. steps: (n, d). Returns (n,)."""
    return np.asarray(np.einsum("nd,dn->n", steps, solve(scatter, term, steps, "auto")))


def one_draw(
    data: Embedded, prior: SufficientStatistics | None, task: str, shots: int | None, seed: int
) -> dict[str, float]:
    """AUROC of every candidate for one draw of taught classes and examples."""
    rng = np.random.default_rng(seed)
    train, ask = (task_clips(data, task, held_out=h) for h in (False, True))
    labels = sorted({str(data.clips.labels[c]) for c in train})
    chosen = set(rng.permutation(labels)[: len(labels) // 2].tolist())
    known = taught(data, shots_of(data, [c for c in train if data.clips.labels[c] in chosen], shots, rng))
    rows = data.rows(ask, data.sounding)
    clip = data.clip[rows]
    is_known = np.isin(data.clips.labels, sorted(chosen))
    found = {}
    for name, score in candidate_scores(known, prior, data.features[rows]).items():
        sums = np.bincount(clip, score, minlength=len(data.clips))
        counts = np.bincount(clip, minlength=len(data.clips))
        asked = counts > 0
        mean = sums[asked] / counts[asked]
        found[name] = auroc(mean[is_known[asked]], mean[~is_known[asked]])
    return found


def table(
    data: Embedded, priors: Mapping[str, SufficientStatistics | None], task: str, draws: int
) -> list[dict[str, Any]]:
    """One row per candidate; a column per prior and number of shots, mean and deviation over draws."""
    rows: dict[str, dict[str, Any]] = {}
    for prior_name, prior in priors.items():
        for shots in (1, 5, None):
            found = [one_draw(data, prior, task, shots, seed) for seed in range(draws)]
            column = f"{prior_name}, {'all clips' if shots is None else f'{shots}-shot'}"
            for name in found[0]:
                values = [f[name] for f in found]
                row = rows.setdefault(name, {"task": task, "score": name})
                row[column] = {"mean": float(np.mean(values)), "deviation": float(np.std(values)), "draws": draws}
    return list(rows.values())


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--bundle", type=Path, required=True)
    arguments.add_argument("--data", type=Path, required=True, help="folder of sets: esc50, speech_commands_test, ...")
    arguments.add_argument("--cache", type=Path, default=Path(".embedded"), help="where embedded windows are kept")
    arguments.add_argument("--draws", type=int, default=10)
    options = arguments.parse_args()
    most = QUICK_CLIPS if options.quick else None
    bundle = open_bundle(options.bundle)
    data = embed_sets(Embedder(bundle), [options.data], cache=options.cache, max_clips=most)
    results: dict[str, Any] = {"bundle": bundle.name, "auroc": []}
    for task in ("sounds", "words"):
        priors = {k: v for k, v in priors_for(data, bundle, task).items() if k != "none"}
        rows = table(data, priors, task, 2 if options.quick else options.draws)
        results["auroc"] += rows
        print_table([{k: f"{v['mean']:.3f}" if isinstance(v, dict) else v for k, v in row.items()} for row in rows])
        print()
        write_results(options.out, "open_set", results)


if __name__ == "__main__":
    main()
