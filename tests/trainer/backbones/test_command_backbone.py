"""``soundkeep-trainer backbone`` as a user runs it, on small files of each layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from edge.errors import BundleError
from tests.golden.make_backbone_golden import bank, stored, waveform
from tests.trainer.backbones.hub_server import running_hub
from tests.trainer.backbones.published_files import eat_fairseq, write_beats, write_eat_folder
from trainer.backbones.catalogue import CATALOGUE
from trainer.backbones.fetch import sha256_of
from trainer.backbones.loading import load_backbone
from trainer.cli import main


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOUNDKEEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["backbone", *(str(a) for a in arguments)])


def tokens(folder: Path, name: str, source: Path, *more: str, **arrays: np.ndarray) -> Result:
    np.savez(folder / "x.npz", **arrays)  # type: ignore[arg-type]
    return run("tokens", name, "--from", source, "--input", folder / "x.npz", "--out", folder / "y.npz", *more)


def written(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "y.npz", allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def test_list_says_what_is_pinned_and_what_is_not(cache: Path) -> None:
    result = run("list")
    assert result.exit_code == 0
    for entry in CATALOGUE.values():
        assert entry.name in result.output and entry.page in result.output
        assert (entry.sha256 or "") in result.output
    assert "main at the first fetch, kept from then on" in result.output
    assert f"{CATALOGUE['ast'].revision} (pinned)" in result.output


def test_fetch_of_other_bytes_is_refused_in_one_sentence(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").write_bytes(b"not the published bytes")
    result = run("fetch", "eat-base", "--from", tmp_path / "mine.safetensors")
    assert result.exit_code == 1
    assert result.output.count("\n") == 1 and CATALOGUE["eat-base"].sha256 in result.output  # type: ignore[operator]
    assert run("fetch", "eat-huge").exit_code == 2


def test_fetch_takes_the_hub_from_the_environment(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        result = run("fetch", "beats-iter3plus")
    assert result.exit_code == 1 and "404" in result.output
    assert hub.requests[0][0].startswith("/datasets/Bencr/beats-checkpoints/resolve/082fb184")


@pytest.mark.parametrize("name", ["eat-base", "sslam-base", "eat"])
@pytest.mark.parametrize("layout", ["fairseq", "folder"])
def test_eat_tokens(name: str, layout: str, tmp_path: Path) -> None:
    source = tmp_path / "eat.pt"
    if layout == "folder":
        source = write_eat_folder(tmp_path / "eat")
    else:
        torch.save(eat_fairseq(), source)
    result = tokens(tmp_path, name, source, filterbank=bank("eat"))
    assert result.exit_code == 0, result.output
    found = written(tmp_path)
    assert found["tokens"].dtype == found["filterbank"].dtype == np.float32
    np.testing.assert_allclose(found["tokens"], stored("eat")["tokens"], atol=1e-4)
    np.testing.assert_array_equal(found["filterbank"], bank("eat"))


def test_one_filterbank_without_a_batch_is_a_batch_of_one(tmp_path: Path) -> None:
    result = tokens(tmp_path, "beats", write_beats(tmp_path / "b.pt"), filterbank=bank("beats", level=14.0)[0])
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(written(tmp_path)["tokens"], stored("beats")["tokens"][:1], atol=1e-4)


@pytest.mark.parametrize(("name", "window"), [("eat", "hanning"), ("beats-iter3plus", "povey")])
def test_a_waveform_goes_through_the_front_end(name: str, window: str, tmp_path: Path) -> None:
    source = write_eat_folder(tmp_path / "eat") if name == "eat" else write_beats(tmp_path / "b.pt")
    result = tokens(tmp_path, name, source, waveform=waveform())
    assert result.exit_code == 0, result.output
    found = written(tmp_path)
    np.testing.assert_allclose(found["filterbank"][0], stored("kaldi")[window], atol=1e-5)
    n_patches = 8 * (64 // 16) + 1 if name == "eat" else 8 * (48 // 16)
    assert found["tokens"].shape[1] == (8 * (48 // 16) + 1 if name == "eat" else n_patches)


def test_frames_are_set(tmp_path: Path) -> None:
    source = write_eat_folder(tmp_path / "eat")
    assert tokens(tmp_path, "eat", source, "--frames", "128", filterbank=bank("eat")).exit_code == 0
    assert written(tmp_path)["tokens"].shape == (2, 65, 64)
    assert tokens(tmp_path, "eat", source, "--frames", "100", filterbank=bank("eat")).exit_code == 2
    beats = write_beats(tmp_path / "b.pt")
    assert tokens(tmp_path, "beats", beats, "--frames", "96", filterbank=bank("beats")).exit_code == 2


@pytest.mark.parametrize(
    ("name", "more", "arrays", "code", "said"),
    [
        ("beats", (), {"filterbank": bank()}, 1, "is a checkpoint of eat; wanted beats"),
        ("mine", (), {"filterbank": bank()}, 2, "or --kind"),
        ("eat", ("--kind", "beats"), {"filterbank": bank()}, 2, "--kind says beats"),
        ("eat", (), {"sound": bank()}, 2, "holds sound; wanted one of waveform and filterbank"),
        ("eat", (), {"filterbank": bank(), "waveform": waveform()}, 2, "not both"),
        ("eat", (), {"filterbank": bank()[:, :, :64]}, 2, "64 bands; wanted 128"),
        ("eat", (), {"waveform": (waveform() * 32767).astype(np.int16)}, 2, "int16; wanted float32"),
        ("eat", (), {"waveform": np.full(500, np.nan, np.float32)}, 2, "not finite"),
        ("eat", (), {"waveform": waveform()[:300]}, 1, "300 samples"),
        ("eat", (), {"waveform": np.zeros((1, 1, 800), np.float32)}, 2, "shape (1, 1, 800)"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    name: str, more: tuple[str, ...], arrays: dict[str, np.ndarray], code: int, said: str, tmp_path: Path
) -> None:
    result = tokens(tmp_path, name, write_eat_folder(tmp_path / "eat"), *more, **arrays)
    assert (result.exit_code, said in result.output) == (code, True), result.output
    assert result.output.count("\n") == 1
    assert not (tmp_path / "y.npz").exists()


def test_objects_in_an_npz_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", waveform=np.array([{"a": 1}], dtype=object))
    result = run("tokens", "eat", "--from", tmp_path, "--input", tmp_path / "o.npz", "--out", tmp_path / "y.npz")
    assert result.exit_code == 2 and "npz of plain arrays" in result.output


def test_a_folder_that_is_not_there_is_said_before_anything_runs(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", waveform=waveform())
    out = tmp_path / "none" / "y.npz"
    result = run("tokens", "eat", "--from", tmp_path, "--input", tmp_path / "x.npz", "--out", out)
    assert result.exit_code == 2 and "is no folder" in result.output


def test_kind_helps_where_the_name_says_nothing(tmp_path: Path) -> None:
    source = write_eat_folder(tmp_path / "eat")
    assert tokens(tmp_path, "mine", source, "--kind", "eat", filterbank=bank("eat")).exit_code == 0


def test_without_from_the_fetched_file_is_wanted(cache: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", waveform=waveform())
    result = run("tokens", "ast", "--input", tmp_path / "x.npz", "--out", tmp_path / "y.npz")
    assert result.exit_code == 1 and "backbone fetch ast" in result.output


def test_a_fetched_backbone_is_used_by_name(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_eat_folder(tmp_path / "eat")
    small = replace(CATALOGUE["eat-base"], sha256=sha256_of(folder / "model.safetensors"))
    monkeypatch.setitem(CATALOGUE, "eat-base", small)
    result = run("fetch", "eat-base", "--from", folder / "model.safetensors")
    assert result.exit_code == 0 and result.output.strip() == str(cache / "backbones/eat-base/model.safetensors")
    assert "eat-base: eat, licence MIT, fetched" in run("list").output
    np.savez(tmp_path / "x.npz", filterbank=bank("eat"))
    assert run("tokens", "eat-base", "--input", tmp_path / "x.npz", "--out", tmp_path / "y.npz").exit_code == 0
    np.testing.assert_allclose(written(tmp_path)["tokens"], stored("eat")["tokens"], atol=1e-4)
    assert load_backbone("eat-base", window_seconds=5.0).window_length == 80000
    model = load_backbone("eat-base", window_seconds=1.0, embedding="mean")
    assert (model.window_length, model.embedding) == (16000, "mean")
    (cache / "backbones/eat-base/config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BundleError, match=r"config\.json has SHA-256"):
        load_backbone("eat-base")


def test_a_source_that_names_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="neither a file or folder nor a name of the catalogue"):
        load_backbone(tmp_path / "none")
