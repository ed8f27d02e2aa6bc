"""Files that name foreign classes or bring code are read without either, or refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge.errors import BundleError
from tests.golden.make_backbone_golden import bank, stored
from tests.trainer.backbones.published_files import classes_of_elsewhere, eat_fairseq, write_eat_folder
from trainer.backbones import weights
from trainer.backbones.loading import open_published
from trainer.backbones.weights import Foreign, read_weights, restricted_load


class Runs:
    """Pickles into a call of what it is given."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


class Colour(Enum):
    RED = 1


def attacks(evidence: Path) -> dict[str, Any]:
    return {
        "os.system": Runs(os.system, f"touch {evidence}"),
        "open": Runs(open, str(evidence), "w"),
        "exec": Runs(exec, f"open({str(evidence)!r}, 'w').close()"),
        "Popen": Runs(subprocess.Popen, ["touch", str(evidence)]),
        "getattr": Runs(getattr, Runs(__import__, "os"), "system"),
    }


@pytest.mark.parametrize("attack", attacks(Path("none")))
def test_code_in_a_file_never_runs(attack: str, tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    torch.save({"model": {"x": torch.ones(2)}, "cfg": attacks(evidence)[attack]}, tmp_path / "bad.pt")
    try:
        found = restricted_load(tmp_path / "bad.pt")
    except BundleError as error:
        assert "without running code" in str(error)
    else:
        assert isinstance(found["cfg"], Foreign)
        assert torch.equal(found["model"]["x"], torch.ones(2))
    assert not evidence.exists()


def test_the_same_file_runs_its_code_in_an_unrestricted_reader(tmp_path: Path) -> None:
    """The safeguard switched off: this is what the restricted reader prevents."""
    evidence = tmp_path / "evidence"
    torch.save({"cfg": attacks(evidence)["exec"]}, tmp_path / "bad.pt")
    torch.load(tmp_path / "bad.pt", weights_only=False)
    assert evidence.exists()


def test_a_fairseq_file_is_read_where_fairseq_is_not_installed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_last.pt"
    with classes_of_elsewhere() as (config_class, arguments_class):
        config, arguments = config_class(), arguments_class()
        config.__dict__.update({"_content": {"model": arguments}, "_parent": None})
        arguments.__dict__.update({"lr": [0.1], "task": Colour.RED})
        counts: defaultdict[str, int] = defaultdict(int)
        counts["seen"] = 3
        extra = {"best": np.float64(0.5), "counts": counts, "args": arguments}
        torch.save(eat_fairseq() | {"cfg": config, "extra_state": extra}, path)
    before = set(sys.modules)
    model, _ = open_published(path)
    assert not {name for name in set(sys.modules) - before if name.startswith(("fairseq", "omegaconf"))}
    with torch.no_grad():
        got = model.tokens(torch.from_numpy(bank("eat"))).numpy()
    np.testing.assert_allclose(got, stored("eat")["tokens"], atol=1e-4)
    assert restricted_load(path)["extra_state"]["counts"] == {"seen": 3}


def test_allowing_the_stand_ins_ends_with_the_reading(tmp_path: Path) -> None:
    torch.save({"x": Runs(print, "heard")}, tmp_path / "odd.pt")
    before = torch.serialization.get_safe_globals()
    assert isinstance(restricted_load(tmp_path / "odd.pt")["x"], Foreign)
    assert torch.serialization.get_safe_globals() == before


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pt", b"\x80\x02}q\x00.", "zip layout"),
        ("a.pt", b"PK\x03\x04 not much of a zip", "zip layout"),
        ("a.safetensors", b"\x00" * 20, "no safetensors file"),
        ("a.onnx", b"", "ends in .onnx"),
    ],
)
def test_files_of_another_kind_are_refused(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BundleError, match=said):
        read_weights(tmp_path / name)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"x": torch.ones(10000)}}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BundleError):
        read_weights(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [[torch.ones(1)], {"model": {"a": 1}}, {}])
def test_a_file_without_tensors_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(BundleError, match="wanted"):
        read_weights(tmp_path / "a.pt")


def test_tensors_of_something_else_are_named(tmp_path: Path) -> None:
    torch.save({f"layer{i}.weight": torch.ones(1) for i in range(7)}, tmp_path / "a.pt")
    with pytest.raises(BundleError, match=r"layer4\.weight and 2 more"):
        open_published(tmp_path / "a.pt")


def test_a_folder_without_weights_or_with_a_bad_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"holds no model\.safetensors"):
        read_weights(tmp_path)
    folder = write_eat_folder(tmp_path / "eat")
    (folder / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(BundleError, match=r"config\.json cannot be read"):
        read_weights(folder)


def test_a_file_that_is_too_long_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_eat_folder(tmp_path / "eat")
    monkeypatch.setattr(weights, "MAX_BYTES", 10)
    with pytest.raises(BundleError, match="at most 10"):
        read_weights(folder)
