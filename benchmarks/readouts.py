"""Which read-out of the statistics to serve, and how good an ear is beside others.

Sounds and words are taught from the groups that the ear's training heard and asked on groups that nothing heard; no
speaker or source recording is on both sides. Every window that carries sound is learnt, a clip is decided by the mean
of its windows' scores. ``prior``: none; ``other kinds``, without any set that holds the classes in question;
``shipped``, which holds these classes too. The ridge of each head is chosen among the training groups alone.
``1:100``: classes taught in a geometric row of windows, balanced accuracy of all and of the rarest fifth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import parser, print_table, single_thread, write_results

single_thread()

import numpy as np  # noqa: E402
from numpy.random import Generator  # noqa: E402

from benchmarks.draws import (  # noqa: E402
    SOUND_SETS,
    WORD_LIKE_SETS,
    Questions,
    clips_by_label,
    episode,
    fewest_clips,
    shots_of,
    task_clips,
    taught,
    taught_unequally,
)
from benchmarks.embedded import QUICK_CLIPS, Embedded, embed_sets, prior_of  # noqa: E402
from edge.bundle import Bundle, open_bundle  # noqa: E402
from edge.embedder import Embedder  # noqa: E402
from edge.heads import (  # noqa: E402
    Background,
    LinearHead,
    fit_balanced_ridge,
    fit_detection,
    fit_lda,
    fit_ncm,
    fit_ridge,
)
from edge.space import FeatureSpace  # noqa: E402
from edge.statistics import SufficientStatistics  # noqa: E402
from trainer.evaluation import ClipMeans, few_shot_accuracy, readout_accuracy  # noqa: E402

Fit = Callable[[SufficientStatistics, SufficientStatistics | None, float], LinearHead]
HEADS: Mapping[str, Fit] = {
    "ridge": lambda s, p, r: fit_ridge(s, ridge=r, prior=p),
    "balanced ridge": lambda s, p, r: fit_balanced_ridge(s, ridge=r, prior=p),
    "LDA": lambda s, p, r: fit_lda(s, ridge=r, prior=p),
    "nearest mean": lambda s, p, r: fit_ncm(s),
}
RIDGES = (1.0, 16.0, 256.0, 4096.0, 65536.0)
SERVED_RIDGE = 4096.0
SHOTS: tuple[int | None, ...] = (1, 3, 5, 10, None)
IMBALANCE = 100.0


def priors_for(data: Embedded, bundle: Bundle, task: str) -> dict[str, SufficientStatistics | None]:
    """The priors to compare. A bundle without a prior gets the training part's sums, as the exporter makes them."""
    all_sets = sorted(set(data.clips.sets.tolist()))
    kin = SOUND_SETS if task == "sounds" else WORD_LIKE_SETS
    others = data.where(sets=[s for s in all_sets if s not in kin], held_out=False)
    shipped = bundle.prior() or prior_of(data, data.where(sets=all_sets, held_out=False))
    return {"none": None, "other kinds": prior_of(data, others), "shipped": shipped}


def chosen_ridge(
    data: Embedded, clips: Sequence[int], fit: Fit, prior: SufficientStatistics | None, rng: Generator
) -> float:
    """The ridge that does best when half of the training groups teaches (5 clips of a class, or all), half is asked."""
    groups = sorted({str(data.clips.groups[c]) for c in clips})
    half = set(groups[: len(groups) // 2])
    teach = [c for c in clips if data.clips.groups[c] in half]
    ask = Questions.of(data, [c for c in clips if data.clips.groups[c] not in half])
    known = [taught(data, shots_of(data, teach, shots, rng)) for shots in (min(5, fewest_clips(data, teach)), None)]
    found = [np.mean([ask.accuracy(fit(stats, prior, ridge)) for stats in known]) for ridge in RIDGES]
    return RIDGES[int(np.argmax(found))]


def table_of_readouts(
    data: Embedded, priors: Mapping[str, SufficientStatistics | None], task: str, draws: int
) -> list[dict[str, Any]]:
    """Accuracy of every head, prior and number of shots on one task: mean and deviation over draws."""
    train, questions = task_clips(data, task, held_out=False), Questions.of(data, task_clips(data, task, held_out=True))
    lessons: dict[str, list[SufficientStatistics]] = {}
    for shots in [s for s in SHOTS if s is None or s <= fewest_clips(data, train)]:
        name = "full" if shots is None else str(shots)
        n = 1 if shots is None else draws
        lessons[name] = [taught(data, shots_of(data, train, shots, np.random.default_rng(i))) for i in range(n)]
    unequal = [taught_unequally(data, train, IMBALANCE, np.random.default_rng(i)) for i in range(draws)]
    rows = []
    for prior_name, prior in priors.items():
        for head_name, fit in HEADS.items():
            if head_name == "nearest mean" and prior is not None:
                continue
            ridge = chosen_ridge(data, train, fit, prior, np.random.default_rng(0))
            row: dict[str, Any] = {"task": task, "prior": prior_name, "head": head_name, "ridge": ridge}
            for name, known in lessons.items():
                found = [questions.accuracy(fit(stats, prior, ridge)) for stats in known]
                row[name] = _spread(found)
            heads = [(fit(stats, prior, ridge), order) for stats, order in unequal]
            row["1:100"] = _spread([questions.balanced_accuracy(head) for head, _ in heads])
            rarest = [questions.balanced_accuracy(h, order[-max(1, len(order) // 5) :]) for h, order in heads]
            row["rarest"] = _spread(rarest)
            rows.append(row)
    return rows


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "deviation": float(np.std(values)), "draws": len(values)}


def clip_means_of(data: Embedded, task: str) -> ClipMeans:
    """What ``trainer.evaluation`` measures: one mean of sounding windows per clip."""
    clips = [*task_clips(data, task, held_out=False), *task_clips(data, task, held_out=True)]
    heard = [c for c in clips if len(data.rows([c], data.sounding))]
    means = Questions.of(data, heard).means / data.space.grid.scale
    return ClipMeans(means, data.clips.labels[heard], data.clips.held_out[heard])


def device_few_shot(
    data: Embedded, prior: SufficientStatistics | None, *, shots: int, episodes: int, ridge: float
) -> dict[str, float]:
    """Ten ways from the held-out groups as a device does it: the served head over the background, by its LDA scores."""
    clips = clips_by_label(data, task_clips(data, "sounds", held_out=True))
    rng, found = np.random.default_rng(0), []
    background = Background.from_statistics(prior, 1.0, None, ridge, FeatureSpace(data.space))
    for _ in range(episodes):
        teach, ask = episode(data, clips, 10, shots, rng)
        head = fit_detection(taught(data, teach), background, ridge=ridge)
        questions = Questions.of(data, ask)
        found.append(questions.share_right(np.array(head.labels), head.lda_scores(questions.means)))
    return _spread(found)


def ear_row(name: str, data: Embedded, prior: SufficientStatistics | None, episodes: int) -> dict[str, Any]:
    """One row of the comparison of ears, measured twice: standardised clip means and ridge, and as a device does it."""
    means, rng = clip_means_of(data, "sounds"), np.random.default_rng(0)
    train, ask = (task_clips(data, "sounds", held_out=h) for h in (False, True))
    words, ask_words = (task_clips(data, "words", held_out=h) for h in (False, True))
    fit = HEADS["LDA"]
    ridge = chosen_ridge(data, train, fit, None, np.random.default_rng(0))
    word_ridge = chosen_ridge(data, words, fit, None, np.random.default_rng(0))
    return {
        "ear": name,
        "dim": data.space.dim,
        "50 sounds": readout_accuracy(means),
        "1-shot": few_shot_accuracy(means, rng, shots=1),
        "5-shot": few_shot_accuracy(means, np.random.default_rng(0), shots=5),
        "ten words": readout_accuracy(clip_means_of(data, "words")),
        "50 sounds, LDA": Questions.of(data, ask).accuracy(fit(taught(data, train), None, ridge)),
        "1-shot, device": device_few_shot(data, prior, shots=1, episodes=episodes, ridge=SERVED_RIDGE)["mean"],
        "5-shot, device": device_few_shot(data, prior, shots=5, episodes=episodes, ridge=SERVED_RIDGE)["mean"],
        "words, LDA": Questions.of(data, ask_words).accuracy(fit(taught(data, words), None, word_ridge)),
    }


def speech_row(folder: Path, data: Embedded) -> dict[str, Any]:
    """The speech embedding on the ten words, as the first measure of ``ear_row``."""
    from edge.audio import read_audio
    from edge.windows import windows_of
    from trainer.distillation.teachers import load_teachers

    files = [folder / "speech_melspectrogram.onnx", folder / "speech_embedding.onnx"]
    teacher = next(iter(load_teachers(files).values()))
    means, kept = [], []
    for c in [*task_clips(data, "words", held_out=False), *task_clips(data, "words", held_out=True)]:
        windows = windows_of(read_audio(data.clips.paths[c], 16000), 16000, 4000)[1]
        means.append(next(iter(teacher.targets(windows).values())).astype(np.float64).mean(axis=0))
        kept.append(c)
    found = ClipMeans(np.stack(means), data.clips.labels[kept], data.clips.held_out[kept])
    return {"ear": "speech embedding", "dim": found.means.shape[1], "ten words": readout_accuracy(found)}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--bundle", type=Path, required=True)
    arguments.add_argument("--data", type=Path, required=True, help="folder of sets: esc50, speech_commands_test, ...")
    arguments.add_argument("--peer", type=Path, nargs="*", default=[], help="further bundles for the table of ears")
    arguments.add_argument("--models", type=Path, help="folder with the speech embedding, for the table of ears")
    arguments.add_argument("--cache", type=Path, default=Path(".embedded"), help="where embedded windows are kept")
    arguments.add_argument("--draws", type=int, default=10)
    options = arguments.parse_args()
    most = QUICK_CLIPS if options.quick else None
    draws, episodes = (2, 10) if options.quick else (options.draws, 200)
    results: dict[str, Any] = {"readouts": [], "ears": []}
    for path in [options.bundle, *options.peer]:
        bundle = open_bundle(path)
        data = embed_sets(Embedder(bundle), [options.data], cache=options.cache, max_clips=most)
        priors = priors_for(data, bundle, "sounds")
        results["ears"].append(ear_row(bundle.name, data, priors["shipped"], episodes))
        if path == options.bundle:
            for task in ("sounds", "words"):
                rows = table_of_readouts(data, priors_for(data, bundle, task), task, draws)
                results["readouts"] += rows
                print_table([_flat(row) for row in rows])
                print()
                write_results(options.out, "readouts", results)
    if options.models is not None:
        row = speech_row(options.models, data)
        results["ears"].append({name: row.get(name) for name in results["ears"][0]})
    print_table(results["ears"])
    write_results(options.out, "readouts", results)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: f"{v['mean']:.3f} ±{v['deviation']:.3f}" if isinstance(v, dict) else v for k, v in row.items()}


if __name__ == "__main__":
    main()
