"""Models made to harm: nothing outside the bundle is read or run, this process lives on (fault table 15, 17)."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from edge.bundle import MANIFEST, Bundle, open_bundle
from edge.errors import BundleError
from edge.first_load import prove_in_child
from edge.manifest import FileEntry, Manifest
from tests.faults import repetitions
from tests.simulators.small_backbone import onnx_model, write_small_bundle

SECRET = np.full(8, 7.0, np.float32).tobytes()


def with_file(bundle: Bundle, name: str, data: bytes) -> Path:
    """Replace a file of the bundle and make its manifest fit, as whoever makes bundles can."""
    import hashlib
    from dataclasses import replace

    old = bundle.manifest.files[name]
    entry = FileEntry(old.role, len(data), hashlib.sha256(data).hexdigest())
    manifest: Manifest = replace(bundle.manifest, files={**bundle.manifest.files, name: entry})
    (bundle.path / name).write_bytes(data)
    (bundle.path / MANIFEST).write_bytes(manifest.to_bytes())
    return bundle.path


def external(location: str) -> bytes:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[8], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    graph = helper.make_graph(
        [helper.make_node("Add", ["waveform", "w"], ["embedding"])],
        "g",
        [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 8])],
        [tensor],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


@pytest.mark.parametrize("how", ["parent", "absolute", "symlink", "hardlink", "beside"])
def test_weights_kept_elsewhere_are_never_read(tmp_path: Path, how: str) -> None:
    """A hard link is what ONNX Runtime alone would follow; each of these is refused before anything is loaded."""
    (tmp_path / "secret.bin").write_bytes(SECRET)
    bundle = write_small_bundle(tmp_path / "bundle")
    location = {"parent": "../secret.bin", "absolute": str(tmp_path / "secret.bin")}.get(how, "w.bin")
    if how == "symlink":
        (bundle.path / "w.bin").symlink_to(tmp_path / "secret.bin")
    elif how == "hardlink":
        os.link(tmp_path / "secret.bin", bundle.path / "w.bin")
    elif how == "beside":
        (bundle.path / "w.bin").write_bytes(SECRET)
    folder = with_file(bundle, "backbone.onnx", external(location))
    with pytest.raises(BundleError, match=r"weights in another file|does not list"):
        open_bundle(folder)
    (bundle.path / "w.bin").unlink(missing_ok=True)
    with pytest.raises(BundleError, match="weights in another file"):
        open_bundle(folder)


def test_without_the_guard_the_runtime_still_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard switched off: the second line holds, because models are loaded from bytes and have no folder."""
    from edge.embedder import Embedder

    bundle = write_small_bundle(tmp_path / "bundle", window_length=8, hop_length=4, dim=8)
    folder = with_file(bundle, "backbone.onnx", external("w.bin"))
    monkeypatch.setattr("edge.bundle.check_onnx", lambda data: None)
    monkeypatch.chdir(tmp_path)
    os.link(_written(tmp_path / "secret.bin"), tmp_path / "w.bin")
    with pytest.raises(BundleError):
        Embedder(open_bundle(folder))


def _written(path: Path) -> Path:
    path.write_bytes(SECRET)
    return path


def cyclic() -> bytes:
    return _unchecked([helper.make_node("Add", ["waveform", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])], "a")


def oversized() -> bytes:
    return _unchecked([helper.make_node("Identity", ["waveform"], ["embedding"])], "embedding", dim=2**40)


def wrong_opset() -> bytes:
    return _unchecked([helper.make_node("Identity", ["waveform"], ["embedding"])], "embedding", opset=9999)


def unknown_operator() -> bytes:
    return _unchecked([helper.make_node("Steal", ["waveform"], ["embedding"])], "embedding")


def _unchecked(nodes: list[object], output: str, *, dim: int = 8, opset: int = 17) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["n", dim])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", dim])],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()
    )


@pytest.mark.parametrize("make", [cyclic, oversized, wrong_opset, unknown_operator])
def test_impossible_graphs_end_in_the_child(tmp_path: Path, make: object) -> None:
    bundle = write_small_bundle(tmp_path / "b", onnx=make(), window_length=8, hop_length=4, dim=8)  # type: ignore[operator]
    begin = time.monotonic()
    with pytest.raises(BundleError) as caught:
        prove_in_child(bundle)
    assert time.monotonic() - begin < 20.0 and "\n" not in str(caught.value)


@pytest.mark.faults
def test_mutated_models_harm_the_child_at_most(tmp_path: Path) -> None:
    """Those that pass the guard; the child may refuse, crash or even run them, this process does not notice."""
    rng = np.random.default_rng(11)
    nodes = [helper.make_node("Relu", ["waveform"], ["a"]), helper.make_node("Neg", ["a"], ["embedding"])]
    whole = np.frombuffer(onnx_model(nodes, {"waveform": ["n", 8]}, {"embedding": ["n", 8]}, {}), np.uint8)
    n_tried = 0
    while n_tried < repetitions(2, 100):
        mutant = whole.copy()
        mutant[rng.integers(0, len(mutant), 2)] = rng.integers(0, 256, 2)
        try:
            bundle = write_small_bundle(
                tmp_path / f"m{n_tried}", onnx=mutant.tobytes(), window_length=8, hop_length=4, dim=8
            )
        except BundleError:
            continue
        n_tried += 1
        try:
            prove_in_child(bundle, timeout_s=20.0)
        except BundleError as error:
            assert len(str(error)) < 2_000


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["canary_waveforms.npy", "canary_embeddings.npy", "prior.stats", "backbone.onnx"])
def test_pickles_are_data_and_nothing_else(tmp_path: Path, name: str) -> None:
    """A pickle, plain or as an array of objects, in each file of a bundle: refused, and never run."""
    from tests.edge.test_bundle import canary, prior_of

    plain = write_small_bundle(tmp_path / "plain")
    for i, data in enumerate((pickle.dumps(Payload(tmp_path / "ran")), _objects(tmp_path))):
        bundle = write_small_bundle(tmp_path / f"b{i}", canary=canary(), prior=prior_of(plain))
        folder = with_file(bundle, name, data)
        with pytest.raises(Exception) as caught:
            open_bundle(folder)
        assert not (tmp_path / "ran").exists() and "\n" not in str(caught.value)
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists(), "and the payload is one that would have run"


def _objects(folder: Path) -> bytes:
    path = folder / "objects.npy"
    np.save(path, np.array([Payload(folder / "ran")], dtype=object), allow_pickle=True)
    return path.read_bytes()
