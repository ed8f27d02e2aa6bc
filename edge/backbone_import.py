"""A third-party ONNX embedding becomes a bundle: the model file and a page of TOML that says how to feed it."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.bundle import Bundle, open_bundle, write_bundle
from edge.errors import BundleError, ConfigurationError
from edge.first_load import FirstLoad, prove_in_child
from edge.manifest import MAX_FILE_BYTES
from edge.onnx_guard import check_onnx
from edge.space import Grid

MAX_SPEC_BYTES = 64 * 1024
_KEYS: dict[str, dict[str, type]] = {
    "": {"name": str, "version": int, "licence": str, "source": str, "notes": str},
    "input": {"kind": str, "name": str, "sample_rate": int, "window_length": int, "hop_length": int},
    "output": {"name": str, "dim": int},
    "grid": {"fraction_bits": int},
}
_OPTIONAL = {"version", "source", "notes", "grid", "fraction_bits"}


@dataclass(frozen=True)
class BackboneSpec:
    """How to feed a foreign model. Lengths are samples at ``sample_rate`` (Hz)."""

    name: str
    version: int
    licence: str
    source: str
    notes: str
    input_name: str
    sample_rate: int
    window_length: int
    hop_length: int
    output_name: str
    dim: int
    grid: Grid


def parse_spec(data: bytes) -> BackboneSpec:
    """Read a spec.toml. Raises ConfigurationError that names the missing, unknown or mistyped key."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    if len(data) > MAX_SPEC_BYTES:
        raise ConfigurationError(f"the spec has {len(data)} bytes; wanted at most {MAX_SPEC_BYTES}")
    try:
        spec = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as e:
        raise ConfigurationError(f"the spec is not TOML: {e}") from e
    head = _section("", {k: v for k, v in spec.items() if k not in _KEYS or k == ""})
    audio, output = _section("input", spec.get("input", {})), _section("output", spec.get("output", {}))
    grid = _section("grid", spec.get("grid", {}))
    if audio["kind"] != "waveform":
        raise ConfigurationError(
            f"[input] kind is {audio['kind']!r}; wanted 'waveform'; put the front end in the graph"
        )
    return BackboneSpec(
        name=head["name"],
        version=head.get("version", 1),
        licence=head["licence"],
        source=head.get("source", "not stated"),
        notes=head.get("notes", ""),
        input_name=audio["name"],
        sample_rate=audio["sample_rate"],
        window_length=audio["window_length"],
        hop_length=audio["hop_length"],
        output_name=output["name"],
        dim=output["dim"],
        grid=Grid(**grid),
    )


def import_backbone(
    onnx_path: str | os.PathLike[str], spec_path: str | os.PathLike[str], out_dir: str | os.PathLike[str]
) -> tuple[Bundle, FirstLoad]:
    """Make a bundle of a foreign ONNX model in ``out_dir``, which must not exist yet.

    The model is checked (no external weights, no foreign operators), loaded and run in a limited child process, and its
    output must have the dimension that the spec promises. The bundle has no prior statistics and no canary.
    Raises BundleError or ConfigurationError, and then leaves nothing behind.
    """
    out = Path(out_dir)
    if out.exists():
        raise BundleError(f"{out} exists already; choose another folder, or remove it first")
    spec = parse_spec(_read(Path(spec_path), MAX_SPEC_BYTES, "spec"))
    onnx = _read(Path(onnx_path), MAX_FILE_BYTES, "model")
    summary = check_onnx(onnx)
    trial = out.with_name(f".{out.name}.partial-{os.getpid()}-trial")
    try:
        bundle = write_bundle(
            trial,
            name=spec.name,
            version=spec.version,
            onnx=onnx,
            input_name=spec.input_name,
            output_name=spec.output_name,
            sample_rate=spec.sample_rate,
            window_length=spec.window_length,
            hop_length=spec.hop_length,
            dim=spec.dim,
            grid=spec.grid,
            licence=spec.licence,
            model_card=_model_card(spec, onnx, summary.opsets),
            extra={"imported": True},
        )
        first_load = prove_in_child(bundle)
        trial.rename(out)
    except OSError as e:
        raise BundleError(
            f"bundle {out} cannot be written: {e.strerror or e}; free the disk or choose another folder"
        ) from e
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    return open_bundle(out), first_load


def _section(name: str, values: Any) -> dict[str, Any]:
    where = f"[{name}]" if name else "the spec"
    wanted = _KEYS[name]
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{where} is {type(values).__name__}; wanted a table")
    unknown = sorted(values.keys() - wanted.keys())
    if unknown:
        raise ConfigurationError(f"{where} has the unknown key {unknown[0]!r}; wanted {', '.join(wanted)}")
    missing = sorted(wanted.keys() - values.keys() - _OPTIONAL)
    if missing:
        raise ConfigurationError(
            f"{where} lacks {missing[0]!r}; wanted {', '.join(wanted)} (see docs/examples/yamnet.toml)"
        )
    for key, value in values.items():
        if not isinstance(value, wanted[key]) or isinstance(value, bool):
            raise ConfigurationError(f"{where} {key} is {value!r:.80}; wanted {wanted[key].__name__}")
    return dict(values)


def _read(path: Path, max_bytes: int, what: str) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as e:
        raise BundleError(f"{what} {path} cannot be read: {e.strerror or e}; check the path") from e
    if len(data) > max_bytes:
        raise BundleError(f"{what} {path} has more than {max_bytes} bytes; use a smaller one")
    return data


def _model_card(spec: BackboneSpec, onnx: bytes, opsets: Mapping[str, int]) -> str:
    used = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in sorted(opsets.items()))
    return (
        f"# {spec.name}, version {spec.version}\n\n"
        "Imported from a third-party ONNX file. It has no prior statistics: teach it what to ignore.\n\n"
        f"* licence: {spec.licence}\n* source: {spec.source}\n"
        f"* file: {len(onnx)} bytes, SHA-256 {hashlib.sha256(onnx).hexdigest()}, operator sets {used}\n"
        f"* input {spec.input_name!r}: {spec.window_length} samples at {spec.sample_rate} Hz, a window every "
        f"{spec.hop_length}\n* output {spec.output_name!r}: {spec.dim} numbers\n"
        + (f"\n{spec.notes.strip()}\n" if spec.notes.strip() else "")
    )
