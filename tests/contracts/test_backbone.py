"""What every backbone keeps, on a small network of each kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from edge.errors import BundleError, ConfigurationError
from export.graph import INPUT, to_onnx
from tests.trainer.distillation.synthetic_banks import SMALL
from trainer.backbones.ast import Ast, AstSettings
from trainer.backbones.backbone import Backbone, adapted_modules, block_outputs
from trainer.backbones.beats import Beats, BeatsSettings
from trainer.backbones.checkpoint import open_checkpoint, save_checkpoint
from trainer.backbones.eat import Eat, EatSettings
from trainer.backbones.kinds import backbone_of_kind
from trainer.backbones.loading import load_backbone
from trainer.backbones.student import Student

N_SAMPLES = 16000

MAKERS: dict[str, Callable[[], Backbone]] = {
    "student": lambda: Student(SMALL),
    "eat": lambda: Eat(
        EatSettings(window_length=N_SAMPLES, width=96, depth=2, heads=4, mlp_width=128, n_time_positions=16)
    ),
    "eat mean": lambda: Eat(
        EatSettings(
            window_length=N_SAMPLES,
            width=32,
            depth=1,
            heads=2,
            mlp_width=64,
            n_time_positions=16,
            target_frames=64,
            embedding="mean",
        )
    ),
    "beats": lambda: Beats(
        BeatsSettings(window_length=N_SAMPLES, patch_width=32, width=96, depth=2, heads=4, mlp_width=128)
    ),
    "ast": lambda: Ast(
        AstSettings(
            window_length=N_SAMPLES, target_frames=112, max_frames=128, width=96, depth=2, heads=4, mlp_width=128
        )
    ),
}


@pytest.fixture(scope="module", params=MAKERS)
def model(request: pytest.FixtureRequest) -> Backbone:
    torch.manual_seed(0)
    made = MAKERS[request.param]()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made.eval()


def sounds() -> Tensor:
    """Noise, a tone, silence: (3, N_SAMPLES)."""
    rng = np.random.default_rng(1)
    tone = 0.3 * np.sin(2 * np.pi * 700 * np.arange(N_SAMPLES) / 16000)
    return torch.tensor(np.stack([0.1 * rng.standard_normal(N_SAMPLES), tone, 0 * tone]), dtype=torch.float32)


def test_shapes(model: Backbone) -> None:
    assert (model.sample_rate, model.window_length) == (16000, N_SAMPLES)
    assert model.embedding in model.EMBEDDINGS
    with torch.no_grad():
        features = model.features(sounds())
        tokens = model.tokens(features)
        assert features.dtype == tokens.dtype == torch.float32
        assert (len(features), len(tokens), tokens.ndim) == (3, 3, 3)
        assert model.pool(tokens).shape == model(sounds()).shape == (3, model.dim)


def test_forward_is_pool_of_tokens_of_features(model: Backbone) -> None:
    with torch.no_grad():
        whole = model(sounds())
        parts = model.pool(model.tokens(model.features(sounds())))
    assert torch.allclose(whole, parts, atol=1e-5)
    assert torch.isfinite(whole).all()


def test_a_sound_does_not_hear_its_neighbours(model: Backbone) -> None:
    with torch.no_grad():
        together = model(sounds())
        for i in range(3):
            assert torch.allclose(model(sounds()[i : i + 1])[0], together[i], atol=1e-5)


def test_the_same_sound_gives_the_same_bits(model: Backbone) -> None:
    with torch.no_grad():
        assert torch.equal(model(sounds()), model(sounds()))


def test_every_block_is_seen_in_order(model: Backbone) -> None:
    with torch.no_grad():
        features = model.features(sounds())
    seen = block_outputs(model, features)
    assert len(seen) == len(model.blocks)
    assert all(vectors.ndim == 2 and len(vectors) == 3 for vectors in seen)
    assert all(not vectors.requires_grad for vectors in seen)
    if model.kind in ("eat", "beats"):
        with torch.no_grad():
            assert torch.allclose(seen[-1], model.encode(features), atol=1e-6)


def test_a_block_maps_what_the_last_one_put_out(model: Backbone) -> None:
    """Blocks can be run one by one: an adaptation of late blocks starts from stored outputs of early ones."""
    outputs: list[Tensor] = []
    handles = [block.register_forward_hook(lambda m, i, o: outputs.append(o)) for block in model.blocks]
    with torch.no_grad():
        model(sounds())
        for handle in handles:
            handle.remove()
        for block, before, after in zip(model.blocks[1:], outputs[:-1], outputs[1:], strict=True):
            assert torch.allclose(block(before), after, atol=1e-5)


def test_description_and_checkpoint_give_back_every_bit(model: Backbone, tmp_path: Path) -> None:
    description = json.loads(json.dumps(model.description()))
    assert backbone_of_kind(model.kind, description).description() == model.description()
    save_checkpoint(tmp_path / "it", model, {})
    again = open_checkpoint(tmp_path / "it").base
    assert type(again) is type(model)
    with torch.no_grad():
        assert torch.equal(again(sounds()), model(sounds()))
        assert torch.equal(load_backbone(tmp_path / "it")(sounds()), model(sounds()))


def test_descriptions_that_do_not_fit_name_what_is_strange(model: Backbone) -> None:
    description = model.description()
    with pytest.raises(BundleError, match="colour"):
        backbone_of_kind(model.kind, description | {"colour": 3})
    if model.kind == "student":
        return
    lacking = {k: v for k, v in description.items() if k != "width"}
    with pytest.raises(BundleError, match="missing width"):
        backbone_of_kind(model.kind, lacking)
    with pytest.raises(BundleError, match="width = 'wide'"):
        backbone_of_kind(model.kind, description | {"width": "wide"})
    with pytest.raises(BundleError, match="heads"):
        backbone_of_kind(model.kind, description | {"heads": 7})
    with pytest.raises(BundleError, match="loudest"):
        backbone_of_kind(model.kind, description | {"embedding": "loudest"})


def test_window_and_embedding_can_be_wished_for(model: Backbone, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "it", model, {})
    if model.kind == "student":
        with pytest.raises(ConfigurationError, match="for good"):
            load_backbone(tmp_path / "it", window_seconds=2.0)
        return
    other = load_backbone(tmp_path / "it", window_seconds=0.5, embedding=model.EMBEDDINGS[-1])
    assert (other.window_length, other.embedding) == (8000, model.EMBEDDINGS[-1])
    with torch.no_grad():
        assert other(sounds()[:, :8000]).shape == (3, model.dim)
    with pytest.raises((BundleError, ConfigurationError), match="loudest"):
        load_backbone(tmp_path / "it", embedding="loudest")


def test_lora_targets_are_there_and_get_a_gradient(model: Backbone) -> None:
    names = adapted_modules(model, range(len(model.blocks)))
    assert {name.split(".")[1] for name in names} == {str(i) for i in range(len(model.blocks))}
    model.zero_grad()
    model(sounds()[:2]).square().sum().backward()
    for name in names:
        gradient = model.get_parameter(f"{name}.weight").grad
        assert gradient is not None and float(gradient.abs().sum()) > 0.0, name
    model.zero_grad()


def test_lora_of_peft_fits_the_targets(model: Backbone) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    copy = backbone_of_kind(model.kind, model.description())
    targets = adapted_modules(copy, [len(copy.blocks) - 1])
    inject_adapter_in_model(LoraConfig(r=2, target_modules=targets), copy)
    trained = [name for name, p in copy.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * len(targets)
    assert copy.eval()(sounds()).shape == (3, copy.dim)


def test_the_onnx_graph_with_its_front_end_gives_the_same(model: Backbone) -> None:
    graph = to_onnx(model, N_SAMPLES)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = model(sounds()).numpy()
    for n in (1, 3):
        (got,) = session.run(None, {INPUT: sounds()[:n].numpy()})
        np.testing.assert_allclose(got, wanted[:n], atol=1e-4, rtol=0)
