"""The default ear as a network, and its checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edge.errors import BundleError
from tests.trainer.distillation.synthetic_banks import SMALL
from trainer.backbones.checkpoint import load_checkpoint, save_checkpoint
from trainer.backbones.embedding import embed_windows
from trainer.backbones.student import Student, pool_thirds


def student(seed: int = 0) -> Student:
    torch.manual_seed(seed)
    return Student(SMALL).eval()


def test_the_default_ear_has_at_most_a_million_and_three_quarters_of_weights_and_256_numbers() -> None:
    ear = Student().eval()
    assert ear.n_weights() <= 1_750_000
    with torch.no_grad():
        assert ear(torch.zeros(2, 16000)).shape == (2, 256)


def test_pool_thirds_is_three_means_and_a_maximum() -> None:
    x = torch.arange(2.0 * 3 * 2 * 7).reshape(2, 3, 2, 7).sin()
    pooled = pool_thirds(x)
    assert pooled.shape == (2, 12)
    expected = [x[:, :, :, s : s + 3].mean(dim=(2, 3)) for s in (0, 2, 4)]
    assert torch.allclose(pooled, torch.cat([*expected, x.amax(dim=(2, 3))], dim=1))


def test_pool_thirds_hears_order_and_a_mean_would_not() -> None:
    x = torch.zeros(1, 1, 1, 9)
    x[..., :3] = 1.0
    later = x.flip(3)
    assert not torch.equal(pool_thirds(x), pool_thirds(later))
    assert torch.equal(x.mean(dim=(2, 3)), later.mean(dim=(2, 3)))


def test_embed_windows_is_forward_in_pieces() -> None:
    ear = student()
    windows = np.random.default_rng(0).standard_normal((5, 16000)).astype(np.float32)
    with torch.no_grad():
        whole = ear(torch.from_numpy(windows)).numpy()
    np.testing.assert_allclose(embed_windows(ear, windows, batch_size=2), whole, atol=1e-5)
    assert embed_windows(ear, windows[:0]).shape == (0, SMALL.dim)


def test_a_checkpoint_gives_back_every_bit(tmp_path: Path) -> None:
    ear = student()
    save_checkpoint(tmp_path / "ear", ear, {"data": ["a set"]})
    back, meta = load_checkpoint(tmp_path / "ear")
    assert isinstance(back, Student) and back.settings == SMALL
    assert not back.training
    assert meta["data"] == ["a set"]
    for key, value in ear.state_dict().items():
        assert torch.equal(back.state_dict()[key], value), key
    assert sorted(p.name for p in (tmp_path / "ear").iterdir()) == ["checkpoint.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: (d / "checkpoint.json").unlink(), "is no checkpoint"),
        (lambda d: (d / "checkpoint.json").write_text("{"), "is no checkpoint"),
        (lambda d: (d / "checkpoint.json").write_text("[]"), "schema list"),
        (lambda d: (d / "model.safetensors").unlink(), "damaged checkpoint"),
        (lambda d: (d / "model.safetensors").write_bytes(b"\0" * 40), "damaged checkpoint"),
        (lambda d: save_checkpoint(d, student(), {"schema": 99}), "schema 99"),
        (lambda d: save_checkpoint(d, student(), {"settings": {"depth": 3}}), "depth"),
        (lambda d: save_checkpoint(d, student(), {"settings": {}}), "damaged checkpoint"),
    ],
)
def test_a_bad_checkpoint_is_refused_in_one_sentence(tmp_path: Path, change: object, said: str) -> None:
    save_checkpoint(tmp_path, student(), {})
    assert callable(change)
    change(tmp_path)
    with pytest.raises(BundleError, match=said) as refused:
        load_checkpoint(tmp_path)
    assert "\n" not in str(refused.value)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, student(), {})
    meta = json.loads((tmp_path / "checkpoint.json").read_text())
    meta["settings"]["dim"] = 16
    (tmp_path / "checkpoint.json").write_text(json.dumps(meta))
    with pytest.raises(BundleError, match="damaged checkpoint"):
        load_checkpoint(tmp_path)
