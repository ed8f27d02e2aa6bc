"""AST against transformers' own ASTModel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification, ASTModel

from edge.errors import BundleError, ConfigurationError
from trainer.backbones.ast import Ast, AstSettings
from trainer.backbones.loading import open_published

CONFIG = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "max_length": 128,
}


def reference(**changed: int) -> ASTForAudioClassification:
    torch.manual_seed(0)
    model = ASTForAudioClassification(ASTConfig(**(CONFIG | changed), num_labels=5)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model


def write(folder: Path, model: ASTForAudioClassification) -> Path:
    model.save_pretrained(folder)
    ASTFeatureExtractor(max_length=model.config.max_length).save_pretrained(folder)
    return folder


def normalised(features: torch.Tensor) -> torch.Tensor:
    return (features + 4.2677393) / (2.0 * 4.5689974)


def test_it_is_last_hidden_state_of_transformers(tmp_path: Path) -> None:
    theirs = reference()
    ours, notes = open_published(write(tmp_path, theirs))
    assert isinstance(ours, Ast) and "classifier" in notes[0]
    features = torch.randn(2, 128, 128) * 4.0 - 5.0
    with torch.no_grad():
        wanted = theirs.audio_spectrogram_transformer(normalised(features))
        tokens = ours.tokens(features)
        assert (tokens - wanted.last_hidden_state).abs().max() <= 1e-5
        assert (ours.pool(tokens) - wanted.pooler_output).abs().max() <= 1e-5


@pytest.mark.parametrize("names", ["of the hub", "of the modules"])
def test_both_sets_of_names_are_read_from_a_lone_file(names: str, tmp_path: Path) -> None:
    """transformers writes the names of before version 5, as the file on the hub has them, and uses others inside."""
    theirs = reference(num_attention_heads=1)
    write(tmp_path / "whole", theirs)
    state = load_file(tmp_path / "whole" / "model.safetensors") if names == "of the hub" else theirs.state_dict()
    telling = (
        "encoder.layer.1.attention.attention.query.weight" if names == "of the hub" else "layers.1.attention.q_proj"
    )
    assert any(telling in name for name in state)
    (tmp_path / "lone").mkdir()
    save_file(state, tmp_path / "lone" / "ast.safetensors")
    ours, _ = open_published(tmp_path / "lone" / "ast.safetensors")
    features = torch.randn(1, 128, 128)
    with torch.no_grad():
        wanted = theirs.audio_spectrogram_transformer(normalised(features)).last_hidden_state
        assert (ours.tokens(features) - wanted).abs().max() <= 1e-5
    assert ours.description()["max_frames"] == 128


def test_short_sounds_cut_the_positions_centrally_in_time(tmp_path: Path) -> None:
    theirs = reference(max_length=256)
    room, steps = 25, 12
    ours, _ = open_published(write(tmp_path, theirs), target_frames=128)
    short = ASTModel(ASTConfig(**CONFIG)).eval()  # type: ignore[arg-type]
    state = theirs.audio_spectrogram_transformer.state_dict()
    table = state["embeddings.position_embeddings"]
    grid = table[:, 2:].reshape(1, 12, room, 64)[:, :, room // 2 - steps // 2 :][:, :, :steps]
    state["embeddings.position_embeddings"] = torch.cat([table[:, :2], grid.reshape(1, 12 * steps, 64)], dim=1)
    short.load_state_dict(state)
    features = torch.randn(2, 98, 128)
    with torch.no_grad():
        wanted = short(normalised(torch.nn.functional.pad(features, (0, 0, 0, 30)))).last_hidden_state
        assert (ours.tokens(features) - wanted).abs().max() <= 1e-5


def test_the_window_decides_how_much_of_the_positions_is_used(tmp_path: Path) -> None:
    folder = write(tmp_path, reference(max_length=256))
    assert open_published(folder, window_length=16000)[0].description()["target_frames"] == 128
    assert open_published(folder, window_length=160000)[0].description()["target_frames"] == 256
    with pytest.raises(ConfigurationError, match="16 to 256"):
        open_published(folder, target_frames=272)


def test_base_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        assert Ast().n_weights() == 86_187_264


def test_the_extractor_beside_the_file_gives_mean_and_deviation(tmp_path: Path) -> None:
    write(tmp_path, reference())
    ASTFeatureExtractor(mean=-6.0, std=5.0).save_pretrained(tmp_path)
    settings = open_published(tmp_path)[0].description()
    assert (settings["mean"], settings["deviation"]) == (-6.0, 5.0)


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    write(tmp_path, reference())
    state = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in state.items() if not name.endswith("layernorm_after.weight")}
    save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(BundleError, match=r"2 missing: blocks\.0\.layernorm_after\.weight"):
        open_published(tmp_path)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no 5 equal heads"):
        AstSettings(width=64, heads=5)
