"""A backbone from whatever names one: the catalogue, a checkpoint folder of ours, a bundle, a published file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.errors import BundleError, ConfigurationError
from trainer.backbones.backbone import Backbone
from trainer.backbones.catalogue import CATALOGUE
from trainer.backbones.checkpoint import load_checkpoint
from trainer.backbones.fetch import cache_folder, fetched
from trainer.backbones.kaldi import n_frames_of, padded_frames
from trainer.backbones.kinds import backbone_of_kind

SAMPLE_RATE = 16000


def load_backbone(source: str | Path, *, window_seconds: float | None = None, embedding: str | None = None) -> Backbone:
    """The backbone that ``source`` names, with its adapters merged, in evaluation mode, on the CPU.

    source: a name of the catalogue (fetched before), a checkpoint folder of ours, a bundle folder, a published file or
    a folder of transformers. window_seconds, embedding: instead of what the source says; a student has its own.
    Raises BundleError for what cannot be read, ConfigurationError for a wish that the backbone cannot fulfil.
    """
    length = None if window_seconds is None else round(window_seconds * SAMPLE_RATE)
    name, path = str(source), Path(source)
    if name in CATALOGUE and not path.exists():
        entry = CATALOGUE[name]
        length = length or round(entry.window_seconds * SAMPLE_RATE)
        return open_published(
            fetched(entry, cache_folder()), kind=entry.kind, window_length=length, embedding=embedding
        )[0]
    if (path / "checkpoint.json").is_file():
        return _changed(load_checkpoint(path)[0], length, embedding)
    if (path / "manifest.json").is_file():
        from trainer.backbones.bundled import student_of_bundle

        return _changed(student_of_bundle(path), length, embedding)
    if not path.exists():
        raise BundleError(
            f"{name} is neither a file or folder nor a name of the catalogue; wanted {', '.join(CATALOGUE)} or a path"
        )
    return open_published(path, window_length=length, embedding=embedding)[0]


def open_published(
    path: Path,
    *,
    kind: str | None = None,
    window_length: int | None = None,
    embedding: str | None = None,
    target_frames: int | None = None,
) -> tuple[Backbone, tuple[str, ...]]:
    """A published file as a backbone, and in words what of the file was left out.

    kind: refuse a file of another kind; told from the names of its tensors when not given. window_length: samples.
    target_frames: frames that EAT or AST sees. Raises BundleError, or ConfigurationError for a wish.
    """
    from trainer.backbones.layouts import Wish, build, kind_of
    from trainer.backbones.weights import read_weights

    weights = read_weights(path)
    found = kind_of(weights)
    if kind is not None and kind != found:
        raise BundleError(f"{weights.path} is a checkpoint of {found}; wanted {kind}; name the other file or kind")
    if target_frames is not None and found == "beats":
        raise ConfigurationError("BEATs sees every frame that fills a patch; leave the number of frames out")
    return build(found, weights, Wish(window_length, embedding, target_frames))


def _changed(model: Backbone, window_length: int | None, embedding: str | None) -> Backbone:
    """The same weights with another window or embedding."""
    settings = model.description()
    wish: dict[str, Any] = {}
    if window_length is not None and window_length != model.window_length:
        wish["window_length"] = window_length
        if model.kind == "ast":
            wish["target_frames"] = min(settings["max_frames"], padded_frames(n_frames_of(window_length)))
    if embedding is not None and embedding != model.embedding:
        wish["embedding"] = embedding
    if not wish:
        return model
    if not set(wish) <= set(settings):
        raise ConfigurationError(
            f"a {model.kind} has a window of {model.window_length / model.sample_rate:g} s and the embedding "
            f"{model.embedding!r} for good; leave both out, or choose another backbone"
        )
    return _rebuilt(model, {**settings, **wish})


def _rebuilt(model: Backbone, settings: Mapping[str, Any]) -> Backbone:
    other = backbone_of_kind(model.kind, settings)
    other.load_state_dict(model.state_dict())
    return other.eval()
