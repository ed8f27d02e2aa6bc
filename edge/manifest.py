"""The manifest of a bundle: bytes in, frozen values out, and back to the same bytes. No files are opened here.

A manifest is canonical JSON that carries the SHA-256 of itself, so that every byte of a bundle is covered by a hash:
the manifest's by its own, every other file's by the manifest. ``docs/bundle_format.md`` describes each field.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from edge.errors import BundleError, ConfigurationError
from edge.space import EmbeddingSpace, Grid, canonical_json

SCHEMA = 1
MAX_MANIFEST_BYTES = 256 * 1024
MAX_FILES = 64
MAX_FILE_BYTES = 512 * 1024 * 1024
MAX_DIM = 8192
MAX_WINDOW_LENGTH = 60 * 48_000
ROLES = (
    "backbone",
    "feature_backbone",
    "prior",
    "canary_waveforms",
    "canary_embeddings",
    "linear_map",
    "model_card",
    "document",
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileEntry:
    """One file of a bundle: what it is for, its length and the hash of its bytes."""

    role: str
    size: int
    sha256: str


@dataclass(frozen=True)
class DetectionDefaults:
    """Read-out and decision settings measured for this backbone; None leaves the runtime's own default.

    ridge: isotropic windows (dimensionless). prior_weight: weight of the prior statistics. threshold, low_threshold: z.
    k of n hops above the threshold make an event; min_ms, hold_ms and refractory_ms are milliseconds.
    """

    ridge: float | None = None
    prior_weight: float | None = None
    threshold: float | None = None
    low_threshold: float | None = None
    k: int | None = None
    n: int | None = None
    min_ms: int | None = None
    hold_ms: int | None = None
    refractory_ms: int | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            whole = name in {"k", "n", "min_ms", "hold_ms", "refractory_ms"}
            if value is None:
                continue
            kinds = (int,) if whole else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
                wanted = "a whole number" if whole else "a finite number"
                raise ConfigurationError(f"detection {name} is {value!r:.40}; wanted {wanted}")
            if whole and value < 0:
                raise ConfigurationError(f"detection {name} is {value}; wanted 0 or more")


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself. Lengths are samples at ``sample_rate`` (Hz)."""

    name: str
    version: int
    licence: str
    input_name: str
    output_name: str
    sample_rate: int
    window_length: int
    hop_length: int
    dim: int
    grid: Grid
    files: Mapping[str, FileEntry]
    detection: DetectionDefaults = field(default_factory=DetectionDefaults)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_name("bundle name", self.name)
        _check_range("version", self.version, 1, 2**31)
        _check_text("licence", self.licence)
        _check_text("input name", self.input_name)
        _check_text("output name", self.output_name)
        _check_range("sample_rate", self.sample_rate, 1000, 384_000)
        _check_range("window_length", self.window_length, 1, MAX_WINDOW_LENGTH)
        _check_range("hop_length", self.hop_length, 1, self.window_length)
        _check_range("dim", self.dim, 1, MAX_DIM)
        _check_files(self.files)

    def file(self, role: str) -> str | None:
        """Return the name of the file with this role, or None."""
        return next((name for name, entry in sorted(self.files.items()) if entry.role == role), None)

    @property
    def space(self) -> EmbeddingSpace:
        """The space of this backbone's embeddings.

        The backbone's identity is the hash of its ONNX bytes and of the input and output that are used: another output
        of the same graph is another backbone. Name, version, licence and detection settings do not enter.
        """
        backbone = self.files[self.file("backbone") or ""]
        identity = {"onnx": backbone.sha256, "input": self.input_name, "output": self.output_name}
        return EmbeddingSpace(
            backbone_sha256=hashlib.sha256(canonical_json(identity)).hexdigest(),
            sample_rate=self.sample_rate,
            window_length=self.window_length,
            hop_length=self.hop_length,
            dim=self.dim,
            grid=self.grid,
        )

    def to_bytes(self) -> bytes:
        """Return the one byte string that stands for this manifest."""
        body = self._body()
        return canonical_json({**body, "sha256": _hash_of(body)}) + b"\n"

    @property
    def sha256(self) -> str:
        """Identity of the whole bundle: it covers every file through the hashes that the manifest holds."""
        return _hash_of(self._body())

    def _body(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "name": self.name,
            "version": self.version,
            "licence": self.licence,
            "input": {
                "kind": "waveform",
                "name": self.input_name,
                "sample_rate": self.sample_rate,
                "window_length": self.window_length,
                "hop_length": self.hop_length,
            },
            "output": {"name": self.output_name, "dim": self.dim},
            "grid": {"fraction_bits": self.grid.fraction_bits},
            "files": {name: asdict(entry) for name, entry in self.files.items()},
            "detection": {k: v for k, v in asdict(self.detection).items() if v is not None},
            "extra": dict(self.extra),
        }


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest. Raises BundleError for any byte that differs from what ``Manifest.to_bytes`` writes."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(f"manifest.json has {len(data)} bytes; wanted at most {MAX_MANIFEST_BYTES}")
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as e:
        raise BundleError(f"manifest.json is not JSON ({e}); the bundle is damaged, fetch it again") from e
    if not isinstance(value, dict):
        raise BundleError("manifest.json holds no object; the bundle is damaged, fetch it again")
    if value.get("schema") != SCHEMA:
        raise BundleError(
            f"manifest.json has schema {value.get('schema')!r:.40}, this soundkeep reads {SCHEMA}; "
            "update soundkeep or fetch a bundle made for it"
        )
    body = {k: v for k, v in value.items() if k != "sha256"}
    try:
        if canonical_json(value) + b"\n" != data or value.get("sha256") != _hash_of(body):
            raise BundleError("manifest.json does not match its own SHA-256; the bundle was altered, fetch it again")
        manifest = _from_body(body)
        if manifest.to_bytes() != data:
            raise BundleError("manifest.json is not in canonical form; write it with soundkeep-export or write_bundle")
    except (ConfigurationError, TypeError, ValueError, OverflowError, RecursionError) as e:
        raise BundleError(f"manifest.json is malformed: {e}") from e
    return manifest


def _from_body(body: Mapping[str, Any]) -> Manifest:
    body = _object("manifest.json", body, set(_TOP))
    audio = _object("input", body["input"], {"kind", "name", "sample_rate", "window_length", "hop_length"})
    if audio["kind"] != "waveform":
        raise BundleError(f"input kind is {audio['kind']!r:.40}; this soundkeep feeds 'waveform' only")
    output = _object("output", body["output"], {"name", "dim"})
    grid = _object("grid", body["grid"], {"fraction_bits"})
    _check_range("fraction_bits", grid["fraction_bits"], 1, 14)
    entries = _object("files", body["files"], None)
    settings = _object("detection", body["detection"], None)
    unknown = settings.keys() - {f.name for f in fields(DetectionDefaults)}
    if unknown:
        raise BundleError(f"detection has unknown keys {sorted(unknown)}; update soundkeep or correct the bundle")
    return Manifest(
        name=body["name"],
        version=body["version"],
        licence=body["licence"],
        input_name=audio["name"],
        output_name=output["name"],
        sample_rate=audio["sample_rate"],
        window_length=audio["window_length"],
        hop_length=audio["hop_length"],
        dim=output["dim"],
        grid=Grid(**grid),
        files={k: FileEntry(**_object(f"file {k!r:.60}", v, {"role", "size", "sha256"})) for k, v in entries.items()},
        detection=DetectionDefaults(**settings),
        extra=_object("extra", body["extra"], None),
    )


_TOP = ("schema", "name", "version", "licence", "input", "output", "grid", "files", "detection", "extra")


def _object(what: str, value: Any, keys: set[str] | None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BundleError(f"{what} is {type(value).__name__}; wanted an object")
    if keys is not None and value.keys() != keys:
        odd = sorted(value.keys() ^ keys)
        raise BundleError(f"{what} has missing or unknown keys {odd}; wanted exactly {sorted(keys)}")
    return value


def _check_files(files: Mapping[str, FileEntry]) -> None:
    if len(files) > MAX_FILES:
        raise BundleError(f"the bundle lists {len(files)} files; wanted at most {MAX_FILES}")
    seen: set[str] = set()
    for name, entry in files.items():
        _check_name("file name", name)
        if name.casefold() in seen | {"manifest.json"}:
            raise BundleError(
                f"file name {name!r} is used twice (case aside) or reserved; give every file its own name"
            )
        seen.add(name.casefold())
        if entry.role not in ROLES:
            raise BundleError(f"file {name!r} has role {entry.role!r:.40}; wanted one of {', '.join(ROLES)}")
        _check_range(f"size of {name!r}", entry.size, 0, MAX_FILE_BYTES)
        if not isinstance(entry.sha256, str) or not _HEX.fullmatch(entry.sha256):
            raise BundleError(f"sha256 of {name!r} is {entry.sha256!r:.80}; wanted 64 hexadecimal digits")
    roles = [e.role for e in files.values() if e.role != "document"]
    if len(set(roles)) != len(roles) or "backbone" not in roles:
        raise BundleError(
            f"the bundle has files of roles {sorted(roles)}; wanted one backbone and each other role once"
        )
    if ("canary_waveforms" in roles) != ("canary_embeddings" in roles):
        raise BundleError(
            "the bundle has half a canary; wanted both canary_waveforms and canary_embeddings, or neither"
        )


def _check_name(what: str, name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
        raise BundleError(
            f"{what} is {name!r:.120}; wanted 1 to 100 letters, digits, dots, dashes or underscores, no folder, no '..'"
        )


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str) or not 1 <= len(text) <= 200 or not text.isprintable():
        raise BundleError(f"the {what} is {text!r:.80}; wanted 1 to 200 printable characters")


def _check_range(what: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BundleError(f"{what} is {value!r:.40}; wanted a whole number from {low} to {high}")


def _hash_of(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body)).hexdigest()


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")
