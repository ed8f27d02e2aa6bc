from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge.embedder import Embedder
from edge.errors import BundleError
from edge.space import l2_normalize
from export.c.evaluate import embeddings_of
from export.c.network import Conv, multiply_adds
from export.c.read_graph import read_network
from export.graph import to_onnx
from tests.bundles import tiny_onnx
from tests.conftest import REPOSITORY
from tests.export.c.written import made_windows, small_bundle
from tests.export.small_transformer import SmallTransformer
from trainer.backbones.log_mel import FrontEndSettings, dft_kernels, mel_filterbank


def read(model: onnx.ModelProto | bytes) -> Any:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return read_network(data, "waveform", "embedding", 16000)


def small() -> onnx.ModelProto:
    return onnx.load_from_string(small_bundle().onnx_bytes())


def test_what_was_read_computes_what_the_graph_does() -> None:
    bundle = small_bundle()
    windows = made_windows(4)
    wanted = l2_normalize(Embedder(bundle).embed(windows))
    got = l2_normalize(embeddings_of(read(bundle.onnx_bytes()), windows))
    assert np.linalg.norm(got - wanted, axis=1).max() < 1e-5


def test_the_front_end_is_that_of_the_trainer() -> None:
    settings = FrontEndSettings()
    fe = read(small_bundle().onnx_bytes()).front_end
    assert (fe.n_fft, fe.frame_length, fe.frame_hop, fe.n_bands, fe.n_frames) == (512, 400, 160, 64, 98)
    assert np.allclose(fe.window, dft_kernels(settings)[0], atol=1e-7)
    assert np.allclose(fe.filters, mel_filterbank(settings).T, atol=1e-7)
    assert fe.level_floor == pytest.approx(1e-9) and fe.relative_floor == pytest.approx(1e-6)


def test_the_shipped_ear_is_read_and_counted() -> None:
    network = read((REPOSITORY / "edge" / "bundles" / "ear" / "backbone.onnx").read_bytes())
    assert network.dim == 256 and network.n_weights == pytest.approx(1.64e6, rel=0.01)
    assert sum(isinstance(step, Conv) for step in network.steps) == 14
    counts = multiply_adds(network)
    assert counts["stem/Conv"] == 32 * 49 * 32 * 9
    assert counts["front end"] < 0.05 * sum(counts.values())


def test_another_front_end_is_refused_by_name() -> None:
    with pytest.raises(BundleError, match=r"front end of this backbone is not one.*has 48 rows of 200, no transform"):
        read_network(tiny_onnx(), "waveform", "embedding", 4000)


def test_a_front_end_that_goes_another_way_is_refused_by_name() -> None:
    model = small()
    (logarithm,) = [n for n in model.graph.node if n.op_type == "Log"]
    logarithm.op_type = "Sqrt"
    with pytest.raises(BundleError, match=r"goes to Sqrt '/log_mel/Log', where Log alone was expected"):
        read(model)


def test_kernels_that_are_no_fourier_transform_are_refused() -> None:
    model = small()
    (kernels,) = [t for t in model.graph.initializer if list(t.dims) == [514, 1, 400]]
    changed = numpy_helper.to_array(kernels).copy()
    changed[100, 0, 200] += 1e-4
    kernels.CopyFrom(numpy_helper.from_array(changed, kernels.name))
    with pytest.raises(BundleError, match=r"differ by .* from those of a Fourier transform"):
        read(model)


def test_a_transformer_is_refused_by_name() -> None:
    with pytest.raises(BundleError, match=r"cannot become C|front end of this backbone is not one"):
        read(to_onnx(SmallTransformer().eval(), 16000))


def change(model: onnx.ModelProto, kind: str, at: int = 0) -> onnx.NodeProto:
    nodes: list[onnx.NodeProto] = [n for n in model.graph.node if n.op_type == kind and "log_mel" not in n.name]
    return nodes[at]


def test_an_unknown_operator_is_refused_by_name() -> None:
    model = small()
    change(model, "Relu").op_type = "Sigmoid"
    with pytest.raises(BundleError, match=r"node '/Relu' \(Sigmoid\) cannot become C: there is no kernel for Sigmoid"):
        read(model)


def test_a_bundle_that_is_int8_already_is_refused_with_what_to_give() -> None:
    model = small()
    change(model, "Relu").op_type = "DequantizeLinear"
    with pytest.raises(BundleError, match=r"in float16 or int8 already.*give the one in float32"):
        read(model)


def test_what_a_kernel_cannot_do_is_refused_by_name() -> None:
    model = small()
    node = change(model, "Conv", 1)
    for a in node.attribute:
        if a.name == "dilations":
            a.CopyFrom(helper.make_attribute("dilations", [2, 2]))
    with pytest.raises(BundleError, match=r"blocks.0/first/Conv' \(Conv\) cannot become C: it is grouped, dilated"):
        read(model)


def test_a_relu_whose_input_others_take_is_refused() -> None:
    model = small()
    sum_of = change(model, "Add")
    relu = change(model, "Relu", 1)
    sum_of.input[1] = relu.input[0]
    with pytest.raises(BundleError, match="whose output nobody else takes"):
        read(model)


def test_nodes_without_names_are_read_all_the_same() -> None:
    """Names are for people: ONNX does not ask for them."""
    model = small()
    for node in model.graph.node:
        node.name = ""
    windows = made_windows(1)
    named = embeddings_of(read(small_bundle().onnx_bytes()), windows)
    assert np.array_equal(embeddings_of(read(model), windows), named)


def test_means_over_another_axis_are_refused() -> None:
    model = small()
    node = change(model, "Slice")
    axes = node.input[3]
    for t in model.graph.initializer:
        if t.name == axes:
            t.CopyFrom(numpy_helper.from_array(np.int64([2]), axes))
    with pytest.raises(BundleError, match=r"'/Slice' \(Slice\).*along another axis than time"):
        read(model)
