"""BEATs against its description in NumPy, and what its file says about itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edge.errors import AudioError, BundleError
from tests.golden.make_backbone_golden import BEATS_CFG, bank, beats_bucket, beats_tokens, beats_weights, stored
from tests.trainer.backbones.published_files import tensors, write_beats
from trainer.backbones.beats import Beats, BeatsBlock, position_buckets
from trainer.backbones.loading import open_published


def tokens(path: Path) -> np.ndarray:
    with torch.no_grad():
        return open_published(path)[0].tokens(torch.from_numpy(bank("beats", level=14.0))).numpy()


def test_the_published_layout_gives_the_tokens_of_the_description(tmp_path: Path) -> None:
    got = tokens(write_beats(tmp_path / "beats.pt"))
    np.testing.assert_allclose(got, stored("beats")["tokens"], atol=1e-4, rtol=0)


def test_another_deep_norm_than_the_file_says_loads_and_is_wrong(tmp_path: Path) -> None:
    """The safeguard of building from ``cfg``: only the numbers show that it was switched off."""
    got = tokens(write_beats(tmp_path / "beats.pt", deep_norm=False))
    assert np.abs(got - stored("beats")["tokens"]).max() > 0.1


def test_the_widest_distance_shows_in_a_long_sound(tmp_path: Path) -> None:
    long = torch.from_numpy(bank("long", n_frames=400, level=14.0))
    with torch.no_grad():
        right, _ = open_published(write_beats(tmp_path / "right.pt"))
        wrong, _ = open_published(write_beats(tmp_path / "wrong.pt", max_distance=1280))
        assert (right.tokens(long) - wrong.tokens(long)).abs().max() > 1e-2
        expected = beats_tokens(beats_weights(), long[0].numpy())
        np.testing.assert_allclose(right.tokens(long[:1])[0].numpy(), expected, atol=1e-4)


def test_the_stored_answers_are_those_of_the_generator() -> None:
    got = beats_tokens(beats_weights(), bank("beats", level=14.0)[0])
    np.testing.assert_allclose(got, stored("beats")["tokens"][0], atol=1e-5)


def test_what_cfg_leaves_out_is_what_the_reference_takes(tmp_path: Path) -> None:
    cfg = {k: v for k, v in BEATS_CFG.items() if k not in ("deep_norm", "max_distance", "conv_pos")}
    torch.save({"cfg": cfg, "model": tensors(beats_weights())}, tmp_path / "beats.pt")
    settings = open_published(tmp_path / "beats.pt")[0].description()
    assert (settings["deep_norm"], settings["max_distance"], settings["position_kernel"]) == (False, 1280, 128)


def test_base_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        assert Beats().n_weights() == 90_311_792


def test_buckets_are_those_of_the_description_up_to_two_minutes() -> None:
    n = 2000
    expected = [beats_bucket(key) for key in range(n)]
    assert position_buckets(n, 320, 800)[0].tolist() == expected
    assert position_buckets(n, 320, 800)[:, 0].tolist() == [beats_bucket(-query) for query in range(n)]
    assert position_buckets(1, 320, 800).tolist() == [[0]]


def test_the_relative_bias_is_one_table(tmp_path: Path) -> None:
    model, _ = open_published(write_beats(tmp_path / "beats.pt"))
    first, second = model.blocks
    assert isinstance(first, BeatsBlock) and isinstance(second, BeatsBlock)
    assert first.self_attn.relative_attention_bias is second.self_attn.relative_attention_bias
    assert model.n_weights() == sum(array.size for array in beats_weights().values()) - 320 * 2


def test_a_bias_of_its_own_in_a_layer_is_refused(tmp_path: Path) -> None:
    state = tensors(beats_weights())
    state["encoder.layers.1.self_attn.relative_attention_bias.weight"] += 1.0
    torch.save({"cfg": BEATS_CFG, "model": state}, tmp_path / "beats.pt")
    with pytest.raises(BundleError, match="layer 1"):
        open_published(tmp_path / "beats.pt")


def test_newer_names_of_the_normalised_convolution_are_read(tmp_path: Path) -> None:
    state = tensors(beats_weights())
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        state[f"encoder.pos_conv.0.parametrizations.weight.{new}"] = state.pop(f"encoder.pos_conv.0.{old}")
    torch.save({"cfg": BEATS_CFG, "model": state}, tmp_path / "beats.pt")
    np.testing.assert_allclose(tokens(tmp_path / "beats.pt"), stored("beats")["tokens"], atol=1e-4)


def test_a_block_makes_the_bias_when_it_is_called_alone(tmp_path: Path) -> None:
    model, _ = open_published(write_beats(tmp_path / "beats.pt"))
    block = model.blocks[1]
    assert isinstance(block, BeatsBlock)
    x = torch.randn(2, 7, 128)
    with torch.no_grad():
        assert torch.equal(block(x), block(x, block.self_attn.bias(7)))


def test_fine_tuned_files_lose_their_predictor(tmp_path: Path) -> None:
    state = tensors(beats_weights()) | {"predictor.weight": torch.zeros(5, 128), "predictor.bias": torch.zeros(5)}
    torch.save({"cfg": BEATS_CFG, "model": state, "label_dict": {0: "/m/0"}}, tmp_path / "beats.pt")
    _, notes = open_published(tmp_path / "beats.pt")
    assert notes == ("2 tensors (predictor.weight, predictor.bias)",)


def test_frames_that_fill_no_patch_are_dropped(tmp_path: Path) -> None:
    model, _ = open_published(write_beats(tmp_path / "beats.pt"))
    sound = torch.from_numpy(bank("beats", level=14.0))
    with torch.no_grad():
        assert torch.equal(model.tokens(sound[:, :79]), model.tokens(sound[:, :64]))
        with pytest.raises(AudioError, match="15 frames"):
            model.tokens(sound[:, :15])


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        ({"layer_norm_first": True}, "layer_norm_first"),
        ({"activation_fn": "relu"}, "activation_fn"),
        ({"encoder_layers": 3}, "missing"),
        ({"gru_rel_pos": False}, "unknown"),
    ],
)
def test_a_cfg_that_the_tensors_do_not_fit_is_refused(cfg: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=said):
        open_published(write_beats(tmp_path / "beats.pt", **cfg))


def test_without_cfg_it_is_refused(tmp_path: Path) -> None:
    torch.save({"model": tensors(beats_weights())}, tmp_path / "beats.pt")
    with pytest.raises(BundleError, match="no cfg"):
        open_published(tmp_path / "beats.pt")
