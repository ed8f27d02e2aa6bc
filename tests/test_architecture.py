"""The floors of the house: who may import whom, and what importing must not do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

MAY_IMPORT = {
    "edge": {"edge"},
    "trainer": {"trainer", "edge"},
    "firmware_bridge": {"firmware_bridge", "edge"},
    "export": {"export", "trainer", "edge"},
}
FOREIGN = {
    "edge": {"torch", "onnx", "onnxscript", "peft", "safetensors", "matplotlib", "transformers", "sklearn", "pandas"},
    "firmware_bridge": {"torch"},
}
ONE_FILE_PER_PACKAGE = {
    "onnxruntime", "prometheus_client", "serial", "sounddevice", "soundfile", "soxr", "starlette", "uvicorn",
}  # fmt: skip
ABSENT_AFTER_IMPORT = {
    "httpx", "matplotlib", "onnxruntime", "rich", "scipy", "sounddevice", "soundfile", "starlette", "torch", "uvicorn",
}  # fmt: skip


def imports_of(source: str) -> set[str]:
    """Return the dotted names of the modules that ``source`` imports, at any depth of nesting."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return names


def modules(package: str) -> Iterator[tuple[Path, set[str]]]:
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        yield path.relative_to(REPOSITORY), imports_of(path.read_text(encoding="utf-8"))


def top(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows_point_down(package: str) -> None:
    for path, names in modules(package):
        upward = {n for n in names if top(n) in MAY_IMPORT.keys() - MAY_IMPORT[package]}
        assert not upward, f"{path} imports {sorted(upward)}; {package} may import {sorted(MAY_IMPORT[package])} only"
        foreign = {n for n in names if top(n) in FOREIGN.get(package, set())}
        assert not foreign, f"{path} imports {sorted(foreign)}, which {package} must run without"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_tests_and_benchmarks_are_never_imported(package: str) -> None:
    for path, names in modules(package):
        assert not {n for n in names if top(n) in {"tests", "benchmarks"}}, path


@pytest.mark.parametrize("package", ["edge", "firmware_bridge"])
def test_each_runtime_library_lives_in_one_file(package: str) -> None:
    users: dict[str, list[Path]] = defaultdict(list)
    for path, names in modules(package):
        for library in ONE_FILE_PER_PACKAGE & {top(n) for n in names}:
            users[library].append(path)
    crowded = {library: paths for library, paths in users.items() if len(paths) > 1}
    assert not crowded, crowded


def test_no_import_of_scipy_signal() -> None:
    for package in ("edge", "firmware_bridge"):
        for path, names in modules(package):
            assert not {n for n in names if n.startswith(("scipy.signal", "librosa"))}, path


def test_nothing_is_pickled() -> None:
    for package in (*MAY_IMPORT, "benchmarks"):
        for path, names in modules(package):
            assert not {n for n in names if top(n) in {"pickle", "cPickle", "dill", "cloudpickle", "joblib"}}, path
            assert "allow_pickle=True" not in (REPOSITORY / path).read_text(encoding="utf-8"), path


def test_no_rooms_without_an_idea() -> None:
    for package in MAY_IMPORT:
        for path, _ in modules(package):
            assert path.stem not in {"utils", "util", "common", "helpers", "manager", "misc"}, path


@pytest.mark.parametrize("module", ["edge", "edge.cli"])
def test_importing_opens_nothing_heavy(module: str) -> None:
    if not (REPOSITORY / (module.replace(".", "/") + ".py")).exists() and module != "edge":
        pytest.fail(f"{module} is missing")
    script = f"import sys, {module}; print(*sorted(set({sorted(ABSENT_AFTER_IMPORT)!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY, timeout=240
    )
    assert done.stdout.split() == []


def test_every_edge_module_imports_alone_and_quietly() -> None:
    """Each module of the device imports in one fresh process without a device, a network or a print."""
    names = [".".join(path.with_suffix("").parts) for path, _ in modules("edge")]
    names = [n.removesuffix(".__init__") for n in names if not n.endswith("__main__")]
    script = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "heavy = {'torch', 'sounddevice', 'onnxruntime', 'scipy.linalg'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=240
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
