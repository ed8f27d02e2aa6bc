"""What a user installs: the edge with its bundles and assets, and nothing of the test suite."""

from __future__ import annotations

import email
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edge.bundle import shipped_bundles_path

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "edge", "trainer", "export", "firmware_bridge")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy so that nothing is left in the checkout."""
    pytest.importorskip("setuptools", reason="needs setuptools to build the wheel")
    root = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--wheel-dir", str(root / "dist"), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next((root / "dist").glob("*.whl")))


def test_the_wheel_holds_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    held = set(wheel.namelist())
    for package in ("edge", "trainer", "export", "firmware_bridge"):
        for path in (REPOSITORY / package).rglob("*"):
            if path.is_file() and path.suffix in {".py", ".typed"}:
                assert str(path.relative_to(REPOSITORY)) in held
    for path in shipped_bundles_path().rglob("*"):
        if path.is_file():
            assert str(path.relative_to(REPOSITORY)) in held
    assets = REPOSITORY / "edge" / "assets"
    for path in assets.rglob("*") if assets.exists() else ():
        if path.is_file():
            assert str(path.relative_to(REPOSITORY)) in held


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"edge", "trainer", "export", "firmware_bridge"}
    assert any(name.endswith("LICENSE") for name in wheel.namelist())


def test_the_base_install_is_the_edge_alone(wheel: zipfile.ZipFile) -> None:
    metadata = email.message_from_bytes(wheel.read(next(n for n in wheel.namelist() if n.endswith("/METADATA"))))
    base = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    for heavy in ("torch", "onnx>", "matplotlib", "scikit-learn", "onnxruntime-gpu"):
        assert not [line for line in base if line.startswith(heavy)], heavy
    assert [line for line in base if line.startswith("onnxruntime") and "!=1.21.0" in line]
    assert metadata["Requires-Python"] == ">=3.10"
    entry_points = wheel.read(next(n for n in wheel.namelist() if n.endswith("/entry_points.txt"))).decode()
    for script in (
        "soundkeep = edge.cli:main",
        "soundkeep-trainer = trainer.cli:main",
        "soundkeep-export = export.cli",
    ):
        assert script in entry_points
