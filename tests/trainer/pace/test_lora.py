"""LoRA: what is trained is what is merged, nothing moves before training, and the original is left alone."""

from __future__ import annotations

import pytest
import torch

from edge.errors import ConfigurationError
from tests.trainer.pace.small_lessons import KINDS, backbone_of, bits, features_of, student, unchanged
from trainer.backbones.backbone import adapted_modules
from trainer.backbones.checkpoint import Checkpoint, add_deltas
from trainer.backbones.eat import Eat, EatSettings
from trainer.pace.lora import LiveLora, with_lora


def moved(lora: LiveLora, seed: int = 5) -> LiveLora:
    """As after training: A and B are anything."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return lora


@pytest.mark.parametrize("kind", KINDS)
def test_merged_is_live_and_the_original_keeps_every_bit(kind: str) -> None:
    backbone = backbone_of(kind)
    features, before = features_of(backbone), bits(backbone)
    lora = with_lora(backbone, "s", range(len(backbone.blocks)), rank=3, alpha=6, seed=0)
    with torch.no_grad():
        plain = backbone.encode(features)
        assert torch.equal(lora.model.encode(features), plain), "B = 0 must change nothing"
        live = moved(lora).model.encode(features)
        merged = Checkpoint(backbone, (lora.adapter(),)).merged().encode(features)
        scale = float(live.abs().max())
        assert float((live - plain).abs().max()) > 1e-2 * scale
        assert float((live - merged).abs().max()) < 1e-5 * scale
        assert torch.equal(backbone.encode(features), plain)
    assert unchanged(backbone, before)
    assert list(backbone.state_dict()) == list(before)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_chosen_blocks_are_trained_and_adapted(kind: str) -> None:
    backbone = backbone_of(kind)
    last = len(backbone.blocks) - 1
    lora = with_lora(backbone, "s", [last], rank=2, alpha=2, seed=0)
    assert list(lora.down) == list(lora.up) == adapted_modules(backbone, [last])
    trained = {id(p) for p in lora.model.parameters() if p.requires_grad}
    assert trained == {id(p) for p in lora.parameters()}
    assert not lora.model.training
    with torch.no_grad():
        moved(lora).model.encode(features_of(backbone))
    merged = Checkpoint(backbone, (lora.adapter(),)).merged()
    changed = {n for n, p in merged.named_parameters() if not torch.equal(p, backbone.get_parameter(n))}
    assert changed == {f"{name}.weight" for name in lora.down}


def test_thirteen_blocks_do_not_share_a_name() -> None:
    """peft shortens long lists of modules: ``blocks.1`` must not stand for ``blocks.11``, nor come in unasked."""
    torch.manual_seed(0)
    backbone = Eat(EatSettings(window_length=4000, width=16, depth=13, heads=2, mlp_width=16, n_time_positions=16))
    for blocks in ([1], list(range(2, 13)), list(range(13))):
        targets = () if len(blocks) < 13 else ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        wanted = adapted_modules(backbone, blocks) if not targets else []
        lora = with_lora(backbone, "s", blocks, rank=1, alpha=1, seed=0)
        found = [n for n, p in lora.model.named_parameters() if p.requires_grad]
        assert len(found) == 2 * len(lora.down) == len(lora.parameters())
        assert not wanted or list(lora.down) == wanted


def test_a_seed_draws_a_and_leaves_the_worlds_chance_alone() -> None:
    backbone = student()
    torch.manual_seed(9)
    first = torch.rand(1)
    torch.manual_seed(9)
    a, b, c = (with_lora(backbone, "s", [3], rank=2, alpha=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), first)
    for name in a.down:
        assert torch.equal(a.down[name], b.down[name]) and not torch.equal(a.down[name], c.down[name])
        assert not bool(a.up[name].any())


def test_an_adapter_is_a_copy() -> None:
    lora = with_lora(student(), "s", [3], rank=2, alpha=8, seed=0)
    kept = lora.adapter()
    moved(lora)
    assert kept.scaling == 4.0 and all(not bool(b.any()) for b in kept.up.values())


def test_adding_and_taking_away_come_back_to_the_weights() -> None:
    backbone = student()
    before, deltas = bits(backbone), moved(with_lora(backbone, "s", [2, 3], rank=2, alpha=2, seed=0)).adapter().deltas()
    add_deltas(backbone, deltas)
    assert not unchanged(backbone, before)
    add_deltas(backbone, deltas, -1.0)
    for name, value in backbone.state_dict().items():
        assert torch.allclose(value, before[name], atol=1e-6)


def test_a_target_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigurationError, match="block 2 of student has no module called attention"):
        with_lora(student(), "s", [2], rank=2, alpha=2, seed=0, targets=("attention",))
