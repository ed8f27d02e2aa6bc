"""A second graph in a bundle: the same weights, from the band powers on, for a microphone that sends log-mel features.

The first graph hears a waveform; its front end turns each stretch of ``frame_length`` samples, one every ``frame_hop``,
into the powers of a few frequency bands. The second graph begins there. Its windows are the first one's: what it is
given for one is (n_bands, n_frames). The space of the embeddings is that of the first graph.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edge.errors import BundleError

if TYPE_CHECKING:
    from edge.bundle import Bundle

FEATURE_BACKBONE = "feature_backbone.onnx"
MAX_BANDS = 512
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FeatureInput:
    """What the second graph takes. Lengths are samples at the bundle's rate.

    input_name: of the graph's input. front_end: SHA-256 of the graph that was cut off, with its numbers: whoever makes
    features must have built that one.
    """

    input_name: str
    n_bands: int
    n_frames: int
    frame_length: int
    frame_hop: int
    front_end: str

    def described(self) -> dict[str, Any]:
        """What the manifest says of it, as ``extra["features"]``."""
        return asdict(self)


def feature_input(bundle: Bundle) -> FeatureInput | None:
    """Return what the second graph of ``bundle`` takes, None when it has none. Raises BundleError for half a one."""
    described = bundle.manifest.extra.get("features")
    if bundle.manifest.file("feature_backbone") is None:
        if described is not None:
            raise BundleError(f"bundle {bundle.name} describes features but has no graph for them; fetch it again")
        return None
    try:
        if not isinstance(described, Mapping):
            raise ValueError("the manifest does not describe them")
        found = FeatureInput(**described)
        for name in ("n_bands", "n_frames", "frame_length", "frame_hop"):
            value = getattr(found, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r:.40}; wanted a whole number of 1 or more")
        if not isinstance(found.input_name, str) or not isinstance(found.front_end, str):
            raise ValueError("its names are no text")
        if not _HEX.fullmatch(found.front_end):
            raise ValueError(f"front_end is {found.front_end!r:.40}; wanted 64 hexadecimal digits")
        if found.n_bands > MAX_BANDS:
            raise ValueError(f"{found.n_bands} bands; wanted at most {MAX_BANDS}")
        window, hop = bundle.manifest.window_length, bundle.manifest.hop_length
        if found.n_frames != (window - found.frame_length) // found.frame_hop + 1 or found.frame_length > window:
            raise ValueError(f"{found.n_frames} frames do not fill a window of {window} samples")
        if hop % found.frame_hop:
            raise ValueError(f"a window begins every {hop} samples, which is no multiple of {found.frame_hop}")
    except (TypeError, ValueError) as error:
        raise BundleError(f"the features of bundle {bundle.name} cannot be used: {error}; fetch it again") from error
    return found


def second_graph(bundle: Bundle) -> tuple[bytes, FeatureInput] | None:
    """Return the second graph and what it takes, as ``write_bundle`` wants them for a copy; None when there is none."""
    takes, onnx_bytes = feature_input(bundle), bundle.feature_onnx_bytes()
    return None if takes is None or onnx_bytes is None else (onnx_bytes, takes)


def wanted_features(bundle: Bundle) -> FeatureInput:
    """Return what the second graph of ``bundle`` takes. Raises BundleError when it has none."""
    found = feature_input(bundle)
    if found is None:
        raise BundleError(
            f"bundle {bundle.name} {bundle.version} hears waveforms only, and the device sends log-mel features; "
            "add the second graph with `soundkeep-export features BUNDLE --out NEW`, or have the device send PCM"
        )
    return found
