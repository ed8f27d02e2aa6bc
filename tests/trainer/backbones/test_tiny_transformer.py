from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from edge.errors import BundleError
from export.c.read_graph import read_network
from export.graph import to_onnx
from trainer.backbones.checkpoint import load_checkpoint, save_checkpoint
from trainer.backbones.kinds import backbone_of_kind
from trainer.backbones.tiny_transformer import TinyTransformer, TinyTransformerSettings, sinusoids
from trainer.cli import main


def tiny(seed: int = 0) -> TinyTransformer:
    torch.manual_seed(seed)
    return TinyTransformer().eval()


def windows(n: int = 3) -> torch.Tensor:
    return 0.1 * torch.randn(n, 16000, generator=torch.Generator().manual_seed(1))


def test_it_has_about_six_thousand_weights() -> None:
    assert 5_500 <= tiny().n_weights() <= 6_600


def test_shapes_and_what_a_window_does_not_depend_on() -> None:
    model, x = tiny(), windows()
    tokens = model.tokens(model.features(x))
    assert tokens.shape == (3, 19, 16) and model(x).shape == (3, 24)
    assert (model(x)[0] - model(x)[1]).abs().max() > 1e-3
    assert torch.allclose(model(x)[1], model(x[[1]])[0], atol=1e-5), "no window depends on its neighbours"
    assert torch.allclose(model(x), model(0.25 * x), atol=2e-2), "nor on how loud it is"


def test_without_positions_the_order_of_tokens_would_not_matter() -> None:
    """What distinguishes words: the positions are what makes a window and its reverse in time two things."""
    model, x = tiny(), windows()
    features = model.features(x)
    backwards = torch.cat([features[..., :95].flip(3), features[..., 95:]], dim=3)
    with_positions = (model.encode(features) - model.encode(backwards)).abs().max()
    model.positions.zero_()
    without = (model.encode(features) - model.encode(backwards)).abs().max()
    assert with_positions > 1e-2 and without < 1e-4


def test_positions_are_all_different() -> None:
    table = sinusoids(19, 16)
    assert table.shape == (19, 16) and torch.pdist(table).min() > 0.1


def test_a_checkpoint_gives_it_back(tmp_path: Path) -> None:
    model, x = tiny(), windows()
    save_checkpoint(tmp_path, model, {})
    again, _ = load_checkpoint(tmp_path)
    assert again.kind == "tiny_transformer" and torch.equal(again(x), model(x))
    assert backbone_of_kind("tiny_transformer", model.description()).n_weights() == model.n_weights()
    with pytest.raises(BundleError, match="hold or lack \\['depth'\\]"):
        TinyTransformerSettings.from_dict({k: v for k, v in model.description().items() if k != "depth"})


def test_the_graph_answers_as_the_network_and_no_c_is_written_of_it() -> None:
    import onnxruntime

    model, x = tiny(), windows()
    onnx = to_onnx(model, 16000)
    session = onnxruntime.InferenceSession(onnx)
    (found,) = session.run(None, {"waveform": x.numpy()})
    np.testing.assert_allclose(found, model(x).detach().numpy(), atol=1e-4)
    with pytest.raises(BundleError, match="cannot become C"):
        read_network(onnx, "waveform", "embedding", 16000)


def test_distil_refuses_what_does_not_fit_together(tmp_path: Path) -> None:
    folder, teacher = tmp_path / "set" / "class", tmp_path / "teacher.onnx"
    folder.mkdir(parents=True)
    (folder / "a.wav").write_bytes(b"")
    teacher.write_bytes(b"")
    common = ["distil", "--data", str(tmp_path / "set"), "--teacher", str(teacher), "--out", str(tmp_path / "out")]
    for words, why in (
        (["--kind", "tiny_transformer", "--widths", "8,16,24,40,64"], "a tiny transformer has none"),
        (["--loss-weight", "speech"], "wanted NAME=W with one of sound, speech, scores"),
        (["--loss-weight", "loudness=1"], "wanted NAME=W with one of sound, speech, scores"),
        (["--loss-weight", "speech=nan"], "a number from 0 to 1000"),
    ):
        done = CliRunner().invoke(main, [*common, *words])
        assert done.exit_code == 2 and why in done.stderr, done.stderr
