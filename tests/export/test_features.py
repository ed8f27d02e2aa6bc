"""The second graph of a bundle: the same numbers from the band powers on, and frames that can be made one by one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from edge.bundle import Bundle, open_bundle
from edge.embedder import Embedder, aligned, probe_window
from edge.errors import AudioError, BundleError
from edge.feature_input import FeatureInput, feature_input, second_graph, wanted_features
from export.amend import amend
from export.cli import main
from export.features import CutGraph, add_features, cut_at_band_powers
from export.graph import to_onnx
from tests.bundles import tiny_onnx, write_tiny_bundle
from tests.export.small_student import DIM, small_student
from tests.simulators.small_backbone import WINDOW_LENGTH, small_backbone, write_small_bundle


@pytest.fixture(scope="module")
def student_onnx() -> bytes:
    return to_onnx(small_student(), WINDOW_LENGTH)


@pytest.fixture(scope="module", params=["small", "student"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, student_onnx: bytes) -> Bundle:
    folder = tmp_path_factory.mktemp("features")
    changes: dict[str, Any] = {} if request.param == "small" else {"onnx": student_onnx, "dim": DIM}
    return add_features(write_small_bundle(folder / "plain", **changes), folder / "with features")


def cut_of(bundle: Bundle) -> CutGraph:
    return cut_at_band_powers(bundle.onnx_bytes(), "waveform", "embedding", WINDOW_LENGTH)


def run(onnx_bytes: bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """As the embedder runs a graph: one window, one thread, input at a multiple of 64 bytes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: aligned(x).reshape(x.shape)})
    return np.asarray(y)


def sounds(n: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(1)
    loud = rng.uniform(0.001, 0.3, (n, 1)) * rng.standard_normal((n, WINDOW_LENGTH))
    return np.concatenate([loud, probe_window(WINDOW_LENGTH), np.zeros((1, WINDOW_LENGTH))]).astype(np.float32)


def test_both_ways_through_a_bundle_give_the_same_embedding_to_the_bit(bundle: Bundle) -> None:
    cut, embedder = cut_of(bundle), Embedder(bundle, takes_features=True)
    for window in sounds(6):
        powers = run(cut.front, window[None])
        np.testing.assert_array_equal(embedder.embed(powers), embedder.embed(window[None]))
        np.testing.assert_array_equal(embedder.quantized(powers)[0], embedder.quantized(window[None])[0])


def test_a_frame_is_made_of_its_own_samples_alone(bundle: Bundle) -> None:
    """So a microcontroller makes each once, whatever windows it will be part of."""
    cut = cut_of(bundle)
    window = sounds(1)[:1]
    whole = run(cut.front, window)[0]
    takes = cut.takes
    assert whole.shape == (takes.n_bands, takes.n_frames)
    free = onnx.load_from_string(cut.front)
    free.graph.input[0].type.tensor_type.shape.dim[1].dim_value = takes.frame_length
    for frame in (0, 1, takes.n_frames - 1):
        begin = frame * takes.frame_hop
        alone = run(free.SerializeToString(), window[:, begin : begin + takes.frame_length])[0, :, 0]
        np.testing.assert_allclose(alone, whole[:, frame], rtol=1e-4, atol=1e-12)
    other = window.copy()
    other[:, takes.frame_length :] = 0.0
    np.testing.assert_allclose(run(cut.front, other)[0, :, 0], whole[:, 0], rtol=1e-5)


def test_the_ear_and_its_space_stay_the_same(bundle: Bundle) -> None:
    plain = open_bundle(bundle.path.with_name("plain"))
    assert bundle.space == plain.space and bundle.sha256 != plain.sha256
    assert bundle.onnx_bytes() == plain.onnx_bytes()
    assert feature_input(plain) is None and second_graph(plain) is None


def test_no_weight_is_changed_or_missing(bundle: Bundle) -> None:
    def weights(onnx_bytes: bytes | None) -> dict[str, bytes]:
        graph = onnx.load_from_string(onnx_bytes).graph
        return {t.name: t.SerializeToString() for t in graph.initializer}

    cut = cut_of(bundle)
    assert {**weights(cut.front), **weights(cut.rest)} == weights(bundle.onnx_bytes())
    assert bundle.feature_onnx_bytes() == cut.rest


def test_the_front_end_has_one_identity_whatever_comes_after_it(student_onnx: bytes) -> None:
    one = cut_at_band_powers(student_onnx, "waveform", "embedding", WINDOW_LENGTH)
    other = cut_at_band_powers(to_onnx(small_student(seed=1), WINDOW_LENGTH), "waveform", "embedding", WINDOW_LENGTH)
    assert one.takes == other.takes and one.rest != other.rest
    small = cut_at_band_powers(small_backbone(), "waveform", "embedding", WINDOW_LENGTH)
    assert small.takes.front_end != one.takes.front_end


def test_a_copy_of_the_bundle_keeps_the_second_graph(bundle: Bundle, tmp_path: Path) -> None:
    copy = amend(bundle, tmp_path / "copy", version=7)
    assert second_graph(copy) == second_graph(bundle)


def test_an_embedder_takes_features_only_where_it_was_asked_to(bundle: Bundle) -> None:
    takes = wanted_features(bundle)
    powers = np.ones((1, takes.n_bands, takes.n_frames), dtype=np.float32)
    with pytest.raises(AudioError, match="wanted"):
        Embedder(bundle).embed(powers)
    with pytest.raises(AudioError, match="wanted"):
        Embedder(bundle, takes_features=True).embed(powers[:, :-1])
    with pytest.raises(AudioError, match="not finite"):
        Embedder(bundle, takes_features=True).embed(powers * np.float32(np.nan))


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_a_bundle_without_the_second_graph_is_refused_by_name(tmp_path: Path) -> None:
    plain = write_small_bundle(tmp_path / "plain")
    with pytest.raises(BundleError, match=r"bundle small 1 hears waveforms only.*soundkeep-export features"):
        Embedder(plain, takes_features=True)


def test_a_backbone_whose_bands_are_averages_over_time_cannot_be_cut() -> None:
    with pytest.raises(BundleError, match="no front end that can be cut off"):
        cut_at_band_powers(tiny_onnx(), "waveform", "embedding", 4000)


def test_a_backbone_that_hears_the_waveform_beside_its_bands_cannot_be_cut() -> None:
    model = onnx.load_from_string(small_backbone())
    graph = model.graph
    graph.node[-1].output[0] = "bands"
    graph.node.append(onnx.helper.make_node("ReduceMax", ["waveform"], ["peak"], axes=[1], keepdims=1))
    graph.node.append(onnx.helper.make_node("Add", ["bands", "peak"], ["embedding"]))
    with pytest.raises(BundleError, match="beside its bands"):
        cut_at_band_powers(model.SerializeToString(), "waveform", "embedding", WINDOW_LENGTH)


@pytest.mark.parametrize(
    "change",
    [{"n_frames": 97}, {"n_bands": 0}, {"n_bands": True}, {"frame_hop": 161}, {"front_end": "x"}, {"input_name": 3}],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    plain = write_small_bundle(tmp_path / "plain")
    cut = cut_of(plain)
    with pytest.raises(BundleError, match="features of bundle small cannot be used"):
        amend(plain, tmp_path / "bad", features=(cut.rest, replace(cut.takes, **change)))


def test_half_a_second_graph_is_refused(tmp_path: Path) -> None:
    takes = FeatureInput("band_powers", 32, 98, 400, 160, "0" * 64)
    with pytest.raises(BundleError, match="describes features but has no graph"):
        write_small_bundle(tmp_path / "bad", extra={"features": takes.described()})


def test_a_second_graph_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    takes = cut_of(write_small_bundle(tmp_path / "plain")).takes
    with pytest.raises(BundleError):
        amend(open_bundle(tmp_path / "plain"), tmp_path / "bad", features=(b"no graph", takes))
    assert not (tmp_path / "bad").exists()


def test_the_command_says_what_it_made(tmp_path: Path) -> None:
    write_small_bundle(tmp_path / "plain")
    done = CliRunner().invoke(main, ["features", str(tmp_path / "plain"), "--out", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["features"]["n_bands"] == 32 and answer["sha256"] == open_bundle(tmp_path / "new").sha256
    write_tiny_bundle(tmp_path / "tiny")
    refused = CliRunner().invoke(main, ["features", str(tmp_path / "tiny"), "--out", str(tmp_path / "no")])
    assert refused.exit_code == 1 and "cut off" in refused.stderr


def test_no_other_ear_is_tried_while_a_device_sends_features(tmp_path: Path) -> None:
    """A trial needs the sound itself; a listener of features says so instead of putting an ear on."""
    from edge.commands.listening import _no_other_ear

    with pytest.raises(BundleError, match=r"small 1 cannot be tried: .* have it send PCM"):
        _no_other_ear(write_small_bundle(tmp_path / "small"))
