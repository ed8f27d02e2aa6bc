"""`soundkeep classify` and `embed`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edge.commands.workbench import Workbench, all_or_error

if TYPE_CHECKING:
    from edge.classification import Classified


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.pass_obj
def classify(bench: Workbench, files: tuple[str, ...]) -> None:
    """Say what is heard in each of FILES; the label null is an unknown sound."""
    from edge.audio_files import read_audio
    from edge.classification import classify_sound
    from edge.embedder import Embedder

    bundle = bench.bundle()
    embedder = Embedder(bundle)
    settings = bench.decision_settings(bundle)
    with bench.reading(bundle) as learner:

        def one(file: str) -> None:
            samples = read_audio(file, bundle.space.sample_rate)
            found = classify_sound(samples, embedder, learner, settings)
            bench.answer({"file": file, **found.to_json()}, _words(file, found))

        all_or_error(bench, bench.progress(files, "listening to"), one)


def _words(file: str, found: Classified) -> str:
    best = sorted(found.scores.items(), key=lambda item: -item[1])[:3]
    others = ", ".join(f"{label} {score:.2f}" for label, score in best)
    return f"{file}: {found.label if found.label is not None else 'unknown'}  ({others or 'nothing is taught yet'})"


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("--out", required=True, type=click.Path(dir_okay=False), metavar="X.npz", help="Where to write.")
@click.pass_obj
def embed(bench: Workbench, files: tuple[str, ...], out: str) -> None:
    """Write the embeddings of every window of FILES, float32 as the backbone gives them, before the grid."""
    import numpy as np

    from edge.audio_files import read_audio
    from edge.classification import write_embeddings
    from edge.embedder import Embedder
    from edge.windows import windows_of

    bundle = bench.bundle()
    space = bundle.space
    embedder = Embedder(bundle)
    embeddings, file_index, start_sample = [], [], []
    for index, file in enumerate(bench.progress(files, "embedding")):
        starts, windows = windows_of(read_audio(file, space.sample_rate), space.window_length, space.hop_length)
        embeddings += [embedder.embed(windows[i : i + 1]) for i in range(len(windows))]
        file_index.append(np.full(len(starts), index, dtype=np.int64))
        start_sample.append(starts)
    n_windows = len(embeddings)
    write_embeddings(
        out, np.concatenate(embeddings), np.concatenate(file_index), np.concatenate(start_sample), np.array(files)
    )
    answer = {"out": out, "n_files": len(files), "n_windows": n_windows, "dim": space.dim}
    bench.answer(answer, f"{out}: {n_windows} windows of {len(files)} file(s), {space.dim} numbers each")
