"""EAT against its description in NumPy, and its two published layouts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edge.errors import BundleError, ConfigurationError
from tests.golden.make_backbone_golden import bank, eat_tokens, eat_weights, stored
from tests.trainer.backbones.published_files import eat_fairseq, eat_hub_names, write_eat_folder
from trainer.backbones.eat import Eat, EatSettings, position_table
from trainer.backbones.loading import open_published


def write(folder: Path, layout: str) -> Path:
    if layout == "folder":
        return write_eat_folder(folder / "eat")
    path = folder / f"eat.{'safetensors' if layout == 'safetensors' else 'pt'}"
    if layout == "safetensors":
        save_file(eat_hub_names(), path)
    else:
        torch.save(eat_fairseq(tuned=layout == "tuned"), path)
    return path


@pytest.mark.parametrize("layout", ["fairseq", "tuned", "safetensors", "folder"])
def test_every_layout_gives_the_tokens_of_the_description(layout: str, tmp_path: Path) -> None:
    model, notes = open_published(write(tmp_path, layout))
    assert isinstance(model, Eat)
    with torch.no_grad():
        got = model.tokens(torch.from_numpy(bank("eat"))).numpy()
    np.testing.assert_allclose(got, stored("eat")["tokens"], atol=1e-4, rtol=0)
    said = " ".join(notes)
    assert ("decoder" in said) == (layout in ("fairseq", "tuned"))
    assert ("_ema" in said) == (layout == "fairseq")
    assert ("head" in said) == (layout == "tuned")


def test_the_stored_answers_are_those_of_the_generator() -> None:
    got = eat_tokens(eat_weights(), bank("eat")[0])
    np.testing.assert_allclose(got, stored("eat")["tokens"][0], atol=1e-5)


def test_base_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        model = Eat()
    assert model.n_weights() == 85_254_144
    assert model.positions.shape == (1, 6144, 768)


def test_positions_tell_the_band_then_the_time() -> None:
    table = position_table(4, 8, 16)
    assert table.shape == (32, 16)
    np.testing.assert_allclose(table[8 * 3 + 5, :4], np.sin(5 * 10000.0 ** (-np.arange(4) / 4)))
    np.testing.assert_allclose(table[8 * 3 + 5, 8:12], np.sin(3 * 10000.0 ** (-np.arange(4) / 4)))


def test_a_filled_up_cell_is_zero_before_it_is_normalised() -> None:
    torch.manual_seed(0)
    model = Eat(EatSettings(width=64, heads=1, depth=1, mlp_width=64, n_time_positions=16)).eval()
    sound = torch.randn(1, 98, 128) - 5.0
    filled = torch.cat([sound, torch.zeros(1, 30, 128)], dim=1)
    with torch.no_grad():
        assert torch.equal(model.tokens(sound), model.tokens(filled))
    assert model.frames_seen(98) == 128 and model.frames_seen(112) == 112 and model.frames_seen(998) == 1024


def test_frames_can_be_set_and_are_bounded_by_the_positions(tmp_path: Path) -> None:
    path = write(tmp_path, "safetensors")
    model, _ = open_published(path, target_frames=32)
    with torch.no_grad():
        assert model.tokens(torch.zeros(1, 98, 128)).shape == (1, 1 + 16, 64)
        with pytest.raises(ConfigurationError, match="1024 frames at most"):
            open_published(path, target_frames=1040)[0].tokens(torch.zeros(1, 98, 128))
    with pytest.raises(ConfigurationError, match="multiple of 16"):
        open_published(path, target_frames=33)


def changed(what: str) -> dict[str, Any]:
    state = eat_hub_names()
    if what == "missing":
        for name in [name for name in state if ".norm1." in name]:
            del state[name]
    elif what == "unknown":
        state["model.blocks.0.attn.gate"] = torch.zeros(3)
    else:
        state["model.blocks.1.mlp.fc2.bias"] = torch.zeros(3)
    return state


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("missing", r"6 missing: blocks\.0\.norm1\.bias, .* and 1 more"),
        ("unknown", r"1 unknown: blocks\.0\.attn\.gate"),
        ("shape", r"blocks\.1\.mlp\.fc2\.bias \(3,\) instead of \(64,\)"),
    ],
)
def test_strange_keys_are_named(what: str, said: str, tmp_path: Path) -> None:
    save_file(changed(what), tmp_path / "eat.safetensors")
    with pytest.raises(BundleError, match=said) as error:
        open_published(tmp_path / "eat.safetensors")
    assert not re.search(r"\n", str(error.value))


def test_a_width_that_heads_of_64_do_not_divide_asks_for_a_config(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Eat(EatSettings(width=96, heads=3, depth=2, mlp_width=96, n_time_positions=16))
    names = {"patch": "local_encoder.proj", "cls_token": "extra_tokens", "input_norm": "pre_norm"}
    state = {}
    for name, tensor in model.state_dict().items():
        head, _, rest = name.partition(".")
        theirs = "fixed_positional_encoder.positions" if name == "positions" else names.get(head, head)
        state[f"model.{theirs}{'.' if rest else ''}{rest}"] = tensor
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(BundleError, match=r"96 wide.*config\.json"):
        open_published(tmp_path)
    (tmp_path / "config.json").write_text('{"num_heads": 3}', encoding="utf-8")
    again, _ = open_published(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(torch.ones(1, 4000)), model.eval()(torch.ones(1, 4000)))
