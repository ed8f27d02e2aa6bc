"""Published layouts of EAT, BEATs and AST: which name is ours, and what sizes the tensors and the config tell.

Each function takes the tensors as published and gives the settings they imply and the state of our network. Names that
are left over, or missing, are refused by ``build``; so an unknown variant is an error that says what is strange.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from edge.errors import BundleError
from trainer.backbones.ast import Ast, AstSettings
from trainer.backbones.backbone import Backbone
from trainer.backbones.beats import Beats, BeatsSettings
from trainer.backbones.eat import Eat, EatSettings
from trainer.backbones.kaldi import n_frames_of, padded_frames
from trainer.backbones.weights import PublishedWeights

HEAD_WIDTH = 64
SHOWN = 5
PUBLISHED_KINDS = ("eat", "beats", "ast")

_TELLING = {
    "eat": "local_encoder.proj.weight",
    "beats": "post_extract_proj.weight",
    "ast": "patch_embeddings.projection.weight",
}

_EAT_NAMES = {
    "local_encoder.proj": "patch",
    "extra_tokens": "cls_token",
    "fixed_positional_encoder.positions": "positions",
    "context_encoder.norm": "input_norm",
    "pre_norm": "input_norm",
}
_EAT_DROPPED = ("_ema", "decoder", "fc_norm", "head")
_BEATS_NAMES = {
    "encoder.pos_conv.0": "pos_conv",
    "encoder.layer_norm": "input_norm",
    "encoder.layers": "blocks",
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}
_BEATS_DROPPED = ("predictor",)
_AST_NAMES = {
    "encoder.layer": "blocks",
    "layers": "blocks",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
_AST_DROPPED = ("classifier",)


@dataclass(frozen=True)
class Wish:
    """What the caller wants otherwise than the file: samples of a window, the embedding, frames that are seen."""

    window_length: int | None = None
    embedding: str | None = None
    target_frames: int | None = None


def kind_of(weights: PublishedWeights) -> str:
    """Tell the kind by the name of a tensor that only it has. Raises BundleError when none is there."""
    for kind, telling in _TELLING.items():
        if any(name.endswith(telling) for name in weights.tensors):
            return kind
    if any(name.startswith("encoder.pos_conv") for name in weights.tensors):
        return "beats"
    raise BundleError(
        f"{weights.path} holds none of the backbones known here (its tensors are {_some(weights.tensors)}); wanted "
        f"{', '.join(PUBLISHED_KINDS)}"
    )


def build(kind: str, weights: PublishedWeights, wish: Wish = Wish()) -> tuple[Backbone, tuple[str, ...]]:
    """Build the network of a published file, in evaluation mode, and say in words what was left out of it."""
    try:
        model, state, dropped = {"eat": _eat, "beats": _beats, "ast": _ast}[kind](weights, wish)
    except KeyError as e:
        raise BundleError(f"{weights.path} is no {kind} checkpoint: it has no {e.args[0]}") from e
    except (IndexError, ValueError, TypeError) as e:
        raise BundleError(f"{weights.path} has tensors or settings of another {kind} than is known here ({e})") from e
    _fit(model, state, weights)
    notes = list(weights.passed_over) + ([f"{len(dropped)} tensors ({_some(dropped)})"] if dropped else [])
    return model.eval(), tuple(notes)


def _eat(weights: PublishedWeights, wish: Wish) -> tuple[Backbone, dict[str, Tensor], list[str]]:
    """The fairseq dict, plain or fine-tuned (all names behind ``model.``), and the safetensors file."""
    bare = {
        name.removeprefix("model.").removeprefix("modality_encoders.IMAGE."): tensor
        for name, tensor in weights.tensors.items()
    }
    state, dropped = _renamed(bare, _EAT_NAMES, _EAT_DROPPED)
    width, _, patch, _ = state["patch.weight"].shape
    config = _innermost(weights.config)
    n_mels = int(config.get("mel_bins", 128))
    settings = EatSettings(
        window_length=wish.window_length or EatSettings().window_length,
        target_frames=wish.target_frames,
        n_mels=n_mels,
        patch=patch,
        width=width,
        depth=_depth(state),
        heads=_heads(width, config.get("num_heads"), weights),
        mlp_width=state["blocks.0.mlp.fc1.weight"].shape[0],
        norm_epsilon=float(config.get("norm_eps", 1e-6)),
        n_time_positions=state["positions"].shape[1] // (n_mels // patch),
        embedding=wish.embedding or "cls",
    )
    if config.get("layer_norm_first") is True:
        raise BundleError(f"{weights.path} says layer_norm_first, which no published EAT does; wanted it false")
    return Eat(settings), state, dropped


def _beats(weights: PublishedWeights, wish: Wish) -> tuple[Backbone, dict[str, Tensor], list[str]]:
    """``cfg`` and ``model``. What ``cfg`` leaves out is what the reference takes then, deep_norm False included."""
    cfg = weights.config
    if not cfg:
        raise BundleError(
            f"{weights.path} has no cfg; wanted the published file, because its tensors alone do not tell"
        )
    odd = {"layer_norm_first": False, "activation_fn": "gelu"}
    for key, usual in odd.items():
        if cfg.get(key, usual) != usual:
            raise BundleError(
                f"{weights.path} has {key} = {cfg[key]!r}; wanted {usual!r}, as every published BEATs has"
            )
    state, dropped = _renamed(weights.tensors, _BEATS_NAMES, _BEATS_DROPPED)
    patch_width, _, patch, _ = state["patch_embedding.weight"].shape
    settings = BeatsSettings(
        window_length=wish.window_length or BeatsSettings().window_length,
        patch=patch,
        patch_width=patch_width,
        patch_bias=bool(cfg.get("conv_bias", False)),
        width=int(cfg.get("encoder_embed_dim", 768)),
        depth=int(cfg.get("encoder_layers", 12)),
        heads=int(cfg.get("encoder_attention_heads", 12)),
        mlp_width=int(cfg.get("encoder_ffn_embed_dim", 3072)),
        deep_norm=bool(cfg.get("deep_norm", False)),
        position_kernel=int(cfg.get("conv_pos", 128)),
        position_groups=int(cfg.get("conv_pos_groups", 16)),
        relative_positions=bool(cfg.get("relative_position_embedding", False)),
        gated_positions=bool(cfg.get("gru_rel_pos", False)),
        n_buckets=int(cfg.get("num_buckets", 320)),
        max_distance=int(cfg.get("max_distance", 1280)),
        embedding=wish.embedding or "mean",
    )
    shared = "blocks.0.self_attn.relative_attention_bias.weight"
    for i in range(1, settings.depth):
        name = shared.replace("blocks.0", f"blocks.{i}")
        if shared in state and not torch.equal(state.setdefault(name, state[shared]), state[shared]):
            raise BundleError(f"{weights.path} has a relative bias of its own in layer {i}; wanted one that is shared")
    return Beats(settings), state, dropped


def _ast(weights: PublishedWeights, wish: Wish) -> tuple[Backbone, dict[str, Tensor], list[str]]:
    """A folder or file of transformers, with or without the classifier, in the names of before or since version 5."""
    bare = {name.removeprefix("audio_spectrogram_transformer."): t for name, t in weights.tensors.items()}
    state, dropped = _renamed(bare, _AST_NAMES, _AST_DROPPED)
    config, preprocessing = weights.config, weights.preprocessing
    width, _, patch, _ = state["embeddings.patch_embeddings.projection.weight"].shape
    usual = AstSettings()
    settings = replace(
        usual,
        window_length=wish.window_length or usual.window_length,
        n_mels=int(config.get("num_mel_bins", usual.n_mels)),
        patch=patch,
        frequency_stride=int(config.get("frequency_stride", usual.frequency_stride)),
        time_stride=int(config.get("time_stride", usual.time_stride)),
        width=width,
        depth=_depth(state),
        heads=_heads(width, config.get("num_attention_heads"), weights),
        mlp_width=state["blocks.0.mlp.fc1.weight"].shape[0],
        norm_epsilon=float(config.get("layer_norm_eps", usual.norm_epsilon)),
        mean=float(preprocessing.get("mean", usual.mean)),
        deviation=float(preprocessing.get("std", usual.deviation)),
        embedding=wish.embedding or "cls",
    )
    steps = (state["embeddings.position_embeddings"].shape[1] - 2) // settings.n_bands
    room = int(config.get("max_length", padded_frames((steps - 1) * settings.time_stride + patch)))
    seen = room
    if wish.window_length is not None:
        seen = min(room, padded_frames(n_frames_of(wish.window_length)))
    settings = replace(settings, max_frames=room, target_frames=wish.target_frames or seen)
    return Ast(settings), state, dropped


def _renamed(
    tensors: Mapping[str, Tensor], names: Mapping[str, str], dropped: tuple[str, ...]
) -> tuple[dict[str, Tensor], list[str]]:
    """Our names for tensors, whole dotted parts at a time; and the names that start with what is dropped."""
    left_out = [name for name in tensors if name.split(".")[0] in dropped]
    state = {}
    for name, tensor in tensors.items():
        if name in left_out:
            continue
        ours = f".{name}."
        for theirs, our in names.items():
            ours = ours.replace(f".{theirs}.", f".{our}.")
        state[ours.strip(".")] = tensor
    return state, left_out


def _fit(model: Backbone, state: Mapping[str, Tensor], weights: PublishedWeights) -> None:
    """Load the state, every name and shape as it must be. Raises BundleError with up to five names and their number."""
    wanted = model.state_dict()
    unknown, missing = sorted(set(state) - set(wanted)), sorted(set(wanted) - set(state))
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    found = [("unknown", unknown), ("missing", missing), ("of another shape", wrong)]
    if unknown or missing or wrong:
        words = "; ".join(f"{len(names)} {what}: {_some(names)}" for what, names in found if names)
        raise BundleError(f"{weights.path} does not fit {model.kind} ({words}); wanted the published layout")
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})


def _depth(state: Mapping[str, Tensor]) -> int:
    return 1 + max((int(m[1]) for m in (re.match(r"blocks\.(\d+)\.", name) for name in state) if m), default=-1)


def _heads(width: int, said: object, weights: PublishedWeights) -> int:
    """Heads that the config tells, otherwise heads of 64."""
    if isinstance(said, int) and not isinstance(said, bool):
        return said
    if width % HEAD_WIDTH:
        raise BundleError(
            f"{weights.path} is {width} wide, which heads of {HEAD_WIDTH} do not divide; put its config.json beside it"
        )
    return width // HEAD_WIDTH


def _innermost(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a fairseq cfg that is about the network, or the config itself."""
    inner = config.get("model")
    return inner if isinstance(inner, dict) else config


def _some(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:SHOWN]) + (f" and {len(every) - SHOWN} more" if len(every) > SHOWN else "")
