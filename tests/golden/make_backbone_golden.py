"""Make the golden vectors of EAT, BEATs and the Kaldi filter bank: plain NumPy in float64, from their descriptions.

``python -m tests.golden.make_backbone_golden`` writes the files. Weights come from a hash of their name and place,
under the names that the published files use, so nothing but the answers needs to be stored.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

Array = NDArray[np.float64]
Weights = dict[str, NDArray[np.float32]]

FOLDER = Path(__file__).parent
WIDTH, DEPTH, HEADS, INNER = 64, 3, 1, 128
WIDE = {"width": 128, "depth": 2, "heads": 2, "inner": 192}
N_FRAMES = 96

BEATS_CFG = {
    "input_patch_size": 16,
    "embed_dim": 48,
    "conv_bias": False,
    "encoder_layers": WIDE["depth"],
    "encoder_embed_dim": WIDE["width"],
    "encoder_ffn_embed_dim": WIDE["inner"],
    "encoder_attention_heads": WIDE["heads"],
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "deep_norm": True,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "num_buckets": 320,
    "max_distance": 800,
    "finetuned_model": False,
}


def numbers(name: str, *shape: int) -> Array:
    """Numbers in -1..1 that depend on ``name`` and place alone (the mixing of splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 20)
        z = z * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    unit = (z >> np.uint64(11)).astype(np.float64) / 2.0**53
    return (2.0 * unit - 1.0).reshape(shape)


def _linear(weights: Weights, name: str, n_out: int, n_in: int, bias: bool = True) -> None:
    weights[f"{name}.weight"] = (numbers(f"{name}.weight", n_out, n_in) * (6.0 / n_in) ** 0.5).astype(np.float32)
    if bias:
        weights[f"{name}.bias"] = (0.3 * numbers(f"{name}.bias", n_out)).astype(np.float32)


def _norm(weights: Weights, name: str, width: int) -> None:
    weights[f"{name}.weight"] = (1.0 + 0.4 * numbers(f"{name}.weight", width)).astype(np.float32)
    weights[f"{name}.bias"] = (0.4 * numbers(f"{name}.bias", width)).astype(np.float32)


def bank(name: str = "bank", n_frames: int = N_FRAMES, level: float = -6.0) -> NDArray[np.float32]:
    """A log filter bank (2, n_frames, 128) about ``level``, which no sound made."""
    return (level + 4.0 * numbers(name, 2, n_frames, 128)).astype(np.float32)


def waveform() -> NDArray[np.float32]:
    """Half a second (8000,): noise under two tones and a step of the mean, in -1..1."""
    t = np.arange(8000) / 16000.0
    tones = 0.2 * np.sin(2 * np.pi * 440 * t) + 0.1 * np.sin(2 * np.pi * 3100 * t)
    return (tones + 0.02 * numbers("noise", 8000) + 0.1 * (t > 0.25)).astype(np.float32)


def kaldi(x: NDArray[np.float32], window: str, scale: float, n_mels: int = 128) -> Array:
    """Filter bank (n_frames, n_mels) of one waveform: frame by frame, band by band."""
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(400) / 399.0)
    taper = hann**0.85 if window == "povey" else hann

    def mel(f: float) -> float:
        return 1127.0 * float(np.log(1.0 + f / 700.0))

    spacing = (mel(8000.0) - mel(20.0)) / (n_mels + 1)
    out = np.zeros((1 + (len(x) - 400) // 160, n_mels))
    for i in range(len(out)):
        frame = x[160 * i : 160 * i + 400].astype(np.float64) * scale
        frame = frame - frame.mean()
        frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(frame * taper, 512)) ** 2
        for b in range(n_mels):
            left = mel(20.0) + b * spacing
            energy = 0.0
            for k in range(256):
                m = mel(31.25 * k)
                energy += power[k] * max(0.0, min((m - left) / spacing, (left + 2 * spacing - m) / spacing))
            out[i, b] = np.log(max(energy, 1.1920929e-07))
    return out


def _layer_norm(x: Array, weights: Weights, name: str, epsilon: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
    return np.asarray(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"])


def _apply(x: Array, weights: Weights, name: str) -> Array:
    return np.asarray(x @ weights[f"{name}.weight"].astype(np.float64).T + weights[f"{name}.bias"])


def _gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1.0 + erf(x / np.sqrt(2.0))))


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def _patches(x: Array, kernel: NDArray[np.float32]) -> Array:
    """(n_frames, 128) to (time x 8, width), frequency fastest; frames that fill no patch are dropped."""
    rows = [
        (kernel[:, 0] * x[16 * t : 16 * t + 16, 16 * f : 16 * f + 16]).sum(axis=(1, 2))
        for t in range(len(x) // 16)
        for f in range(8)
    ]
    return np.array(rows)


def eat_weights() -> Weights:
    """An EAT of width 64 and depth 3 under the names of the fairseq file."""
    w: Weights = {}
    image = "modality_encoders.IMAGE"
    w[f"{image}.local_encoder.proj.weight"] = (0.2 * numbers("eat.conv", WIDTH, 1, 16, 16)).astype(np.float32)
    w[f"{image}.local_encoder.proj.bias"] = (0.2 * numbers("eat.conv.bias", WIDTH)).astype(np.float32)
    w[f"{image}.extra_tokens"] = numbers("eat.cls", 1, 1, WIDTH).astype(np.float32)
    table = np.zeros((1, 64 * 8, WIDTH))
    frequencies = 10000.0 ** (-np.arange(WIDTH // 4) / (WIDTH // 4))
    for t in range(64):
        for f in range(8):
            halves = [np.concatenate([np.sin(p * frequencies), np.cos(p * frequencies)]) for p in (f, t)]
            table[0, 8 * t + f] = np.concatenate(halves)
    w[f"{image}.fixed_positional_encoder.positions"] = table.astype(np.float32)
    _norm(w, f"{image}.context_encoder.norm", WIDTH)
    for i in range(DEPTH):
        for name, n_out, n_in in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", INNER, WIDTH),
            ("mlp.fc2", WIDTH, INNER),
        ):
            _linear(w, f"blocks.{i}.{name}", n_out, n_in)
        _norm(w, f"blocks.{i}.norm1", WIDTH)
        _norm(w, f"blocks.{i}.norm2", WIDTH)
    return w


def eat_tokens(w: Weights, fbank: NDArray[np.float32]) -> Array:
    """Tokens (1 + n_patches, width) of one filter bank whose length is a multiple of 16."""
    image = "modality_encoders.IMAGE"
    x = (fbank.astype(np.float64) + 4.268) / (2.0 * 4.569)
    x = _patches(x, w[f"{image}.local_encoder.proj.weight"]) + w[f"{image}.local_encoder.proj.bias"]
    x = x + w[f"{image}.fixed_positional_encoder.positions"][0, : len(x)]
    x = np.concatenate([w[f"{image}.extra_tokens"][0].astype(np.float64), x])
    x = _layer_norm(x, w, f"{image}.context_encoder.norm", 1e-6)
    width = x.shape[1]
    for i in range(DEPTH):
        b = f"blocks.{i}"
        qkv = _apply(x, w, f"{b}.attn.qkv")
        q, k, v = qkv[:, :width], qkv[:, width : 2 * width], qkv[:, 2 * width :]
        heads = []
        for h in range(width // 64):
            part = slice(64 * h, 64 * h + 64)
            heads.append(_softmax(q[:, part] / 8.0 @ k[:, part].T) @ v[:, part])
        x = _layer_norm(x + _apply(np.concatenate(heads, axis=1), w, f"{b}.attn.proj"), w, f"{b}.norm1", 1e-6)
        inner = _apply(_gelu(_apply(x, w, f"{b}.mlp.fc1")), w, f"{b}.mlp.fc2")
        x = _layer_norm(x + inner, w, f"{b}.norm2", 1e-6)
    return x


def beats_weights() -> Weights:
    """A BEATs of width 128, depth 2 and two heads under the names of the published file."""
    width, inner, heads = WIDE["width"], WIDE["inner"], WIDE["heads"]
    w: Weights = {}
    w["patch_embedding.weight"] = (0.2 * numbers("beats.conv", 48, 1, 16, 16)).astype(np.float32)
    _norm(w, "layer_norm", 48)
    _linear(w, "post_extract_proj", width, 48)
    w["encoder.pos_conv.0.weight_g"] = (1.0 + 0.5 * numbers("beats.g", 1, 1, 128)).astype(np.float32)
    w["encoder.pos_conv.0.weight_v"] = numbers("beats.v", width, width // 16, 128).astype(np.float32)
    w["encoder.pos_conv.0.bias"] = (0.2 * numbers("beats.conv_pos.bias", width)).astype(np.float32)
    _norm(w, "encoder.layer_norm", width)
    table = (2.0 * numbers("beats.table", 320, heads)).astype(np.float32)
    for i in range(WIDE["depth"]):
        layer = f"encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            _linear(w, f"{layer}.self_attn.{name}", width, width)
        _linear(w, f"{layer}.self_attn.grep_linear", 8, width // heads)
        w[f"{layer}.self_attn.grep_a"] = (1.0 + numbers(f"{layer}.grep_a", 1, heads, 1, 1)).astype(np.float32)
        w[f"{layer}.self_attn.relative_attention_bias.weight"] = table
        _norm(w, f"{layer}.self_attn_layer_norm", width)
        _norm(w, f"{layer}.final_layer_norm", width)
        _linear(w, f"{layer}.fc1", inner, width)
        _linear(w, f"{layer}.fc2", width, inner)
    return w


def beats_bucket(relative: int) -> int:
    """Bucket of key minus query: 320 buckets, 80 single steps each way, then logarithmic up to 800."""
    a = abs(relative)
    if a >= 80:
        a = min(159, 80 + int(np.log(a / 80.0) / np.log(800.0 / 80.0) * 80.0))
    return a + (160 if relative > 0 else 0)


def beats_tokens(w: Weights, fbank: NDArray[np.float32]) -> Array:
    """Tokens (n_patches, width) of one filter bank of int16 samples."""
    x = (fbank.astype(np.float64) - 15.41663) / (2.0 * 6.55582)
    x = _apply(_layer_norm(_patches(x, w["patch_embedding.weight"]), w, "layer_norm", 1e-5), w, "post_extract_proj")
    n, width = x.shape
    v = w["encoder.pos_conv.0.weight_v"].astype(np.float64)
    kernel = w["encoder.pos_conv.0.weight_g"] * v / np.sqrt((v**2).sum(axis=(0, 1), keepdims=True))
    padded = np.concatenate([np.zeros((64, width)), x, np.zeros((64, width))])
    size = width // 16
    conv = np.zeros_like(x)
    for t in range(n):
        for g in range(16):
            part = slice(g * size, g * size + size)
            conv[t, part] = np.einsum("oik,ki->o", kernel[part], padded[t : t + 128, part])
    x = _layer_norm(x + _gelu(conv + w["encoder.pos_conv.0.bias"]), w, "encoder.layer_norm", 1e-5)
    heads, depth = WIDE["heads"], WIDE["depth"]
    table = w["encoder.layers.0.self_attn.relative_attention_bias.weight"].astype(np.float64)
    buckets = np.array([[beats_bucket(key - query) for key in range(n)] for query in range(n)])
    alpha = (2.0 * depth) ** 0.25
    for i in range(depth):
        layer, attention = f"encoder.layers.{i}", f"encoder.layers.{i}.self_attn"
        q, k, value = (_apply(x, w, f"{attention}.{name}_proj") for name in "qkv")
        outputs = []
        for h in range(heads):
            part = slice(h * width // heads, (h + 1) * width // heads)
            gates = 1.0 / (
                1.0 + np.exp(-_apply(q[:, part], w, f"{attention}.grep_linear").reshape(n, 2, 4).sum(axis=2))
            )
            a = float(w[f"{attention}.grep_a"][0, h, 0, 0])
            gate = gates[:, 0] * (gates[:, 1] * a - 1.0) + 2.0
            logits = q[:, part] @ k[:, part].T / np.sqrt(width / heads) + gate[:, None] * table[buckets, h]
            outputs.append(_softmax(logits) @ value[:, part])
        attended = _apply(np.concatenate(outputs, axis=1), w, f"{attention}.out_proj")
        x = _layer_norm(alpha * x + attended, w, f"{layer}.self_attn_layer_norm", 1e-5)
        inner = _apply(_gelu(_apply(x, w, f"{layer}.fc1")), w, f"{layer}.fc2")
        x = _layer_norm(alpha * x + inner, w, f"{layer}.final_layer_norm", 1e-5)
    return x


def answers() -> dict[str, dict[str, NDArray[np.float32]]]:
    """What each file holds, by its name."""
    eat, beats, sound = eat_weights(), beats_weights(), waveform()
    return {
        "eat": {"tokens": np.stack([eat_tokens(eat, b) for b in bank("eat")]).astype(np.float32)},
        "beats": {"tokens": np.stack([beats_tokens(beats, b) for b in bank("beats", level=14.0)]).astype(np.float32)},
        "kaldi": {
            "hanning": kaldi(sound, "hanning", 1.0).astype(np.float32),
            "povey": kaldi(sound, "povey", 32768.0).astype(np.float32),
        },
    }


def stored(name: str) -> dict[str, NDArray[np.float32]]:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as found:
        return {key: found[key] for key in found.files}


if __name__ == "__main__":
    for name, arrays in answers().items():
        np.savez_compressed(FOLDER / f"{name}.npz", **arrays)  # type: ignore[arg-type]
