"""How an embedded example travels to the listener: JSON with its embeddings as base64. Both ends, no I/O."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import MisuseError, SpaceMismatchError
from edge.hearing import Example, Levels
from edge.records import Twin
from edge.space import EmbeddingSpace

_FIELDS = {"space", "embeddings", "power", "peak", "clipped", "provenance"}
_OPTIONAL = {"samples", "twin"}


def example_to_json(example: Example) -> dict[str, Any]:
    """Return plain JSON values; the embeddings as base64 of little-endian int16, row after row; audio as 16-bit PCM."""
    value = {
        "space": example.space.sha256,
        "embeddings": base64.b64encode(example.embeddings.astype("<i2").tobytes()).decode("ascii"),
        "power": example.levels.power.tolist(),
        "peak": example.levels.peak.tolist(),
        "clipped": example.levels.clipped.tolist(),
        "provenance": dict(example.provenance),
    }
    if example.samples is not None:
        pcm = np.clip(np.rint(example.samples * 32768.0), -32768, 32767).astype("<i2")
        value["samples"] = base64.b64encode(pcm.tobytes()).decode("ascii")
    if example.twin is not None:
        embeddings = base64.b64encode(example.twin.embeddings.astype("<i2").tobytes()).decode("ascii")
        value["twin"] = {"space": example.twin.space.sha256, "embeddings": embeddings}
    return value


def example_from_json(
    value: Mapping[str, Any], space: EmbeddingSpace, twin_space: EmbeddingSpace | None = None
) -> Example:
    """Check and rebuild. Raises MisuseError when malformed, SpaceMismatchError when it was embedded by another ear.

    twin_space: the space in which a twin is wanted; None: a twin that comes along is passed over.
    """
    if set(value) - _OPTIONAL != _FIELDS:
        odd = sorted((set(value) - _OPTIONAL) ^ _FIELDS)
        raise MisuseError(f"an example has missing or unknown fields {odd[:5]}; wanted {sorted(_FIELDS)}")
    if value["space"] != space.sha256:
        raise SpaceMismatchError(
            f"the example lives in the embedding space {str(value['space'])[:12]} but the listener hears in "
            f"{space.sha256[:12]}; use the same --bundle on both sides"
        )
    embeddings = _embeddings(value["embeddings"], space)
    n_windows = len(embeddings)
    if not isinstance(value["provenance"], dict):
        raise MisuseError("the provenance of an example is not a JSON object; send one, empty if need be")
    levels = Levels(*(_column(value[name], n_windows, name) for name in ("power", "peak", "clipped")))
    twin = None if twin_space is None else _twin(value.get("twin"), twin_space)
    return Example(space, embeddings, levels, value["provenance"], _samples(value.get("samples")), twin)


def _embeddings(encoded: Any, space: EmbeddingSpace) -> NDArray[np.int16]:
    try:
        data = base64.b64decode(encoded, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise MisuseError(
            "the embeddings of an example are not base64; send little-endian int16, row after row"
        ) from error
    n_windows, rest = divmod(len(data), 2 * space.dim)
    if rest or n_windows == 0:
        raise MisuseError(
            f"an example has {len(data)} bytes of embeddings; wanted a multiple of {2 * space.dim}, above 0"
        )
    return np.frombuffer(data, dtype="<i2").astype(np.int16).reshape(n_windows, space.dim)


def _twin(value: Any, space: EmbeddingSpace) -> Twin:
    if not isinstance(value, dict) or set(value) != {"space", "embeddings"} or value["space"] != space.sha256:
        raise SpaceMismatchError(
            f"a new ear is on trial, and the example does not bring its embeddings in the space {space.sha256[:12]} of "
            "the ear before; send it again, or send the audio itself"
        )
    return Twin(space, _embeddings(value["embeddings"], space))


def _samples(encoded: Any) -> NDArray[np.float32] | None:
    if encoded is None:
        return None
    try:
        data = base64.b64decode(encoded, validate=True)
        return np.frombuffer(data, dtype="<i2").astype(np.float32) / np.float32(32768.0)
    except (TypeError, ValueError, binascii.Error) as error:
        raise MisuseError(
            "the samples of an example are not base64 of 16-bit PCM; leave them out or correct them"
        ) from error


def _column(values: Any, n_windows: int, name: str) -> NDArray[np.float64]:
    ok = isinstance(values, list) and len(values) == n_windows
    if not ok or not all(type(v) in (int, float) and math.isfinite(v) and v >= 0.0 for v in values):
        raise MisuseError(f"{name!r} of an example is not a list of {n_windows} finite numbers; send one per window")
    return np.array(values, dtype=np.float64)
