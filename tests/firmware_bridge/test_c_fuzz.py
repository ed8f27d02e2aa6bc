"""What may come from outside, at random, through the C with sanitizers: bytes, messages, heads, blocks, examples.

``fuzz/targets.c`` is a libFuzzer target; where clang has libFuzzer it runs under it too. By hand, and without an end:

    clang -std=c99 -g -O1 -fsanitize=fuzzer,address,undefined -ffp-contract=off -Ifirmware_bridge/c/include \\
        tests/firmware_bridge/fuzz/targets.c firmware_bridge/c/src/sk_{link,head,packet,adpcm,math,update}.c -o fuzzer
    mkdir corpus && ./fuzzer -max_len=1500 corpus
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.faults import repetitions
from tests.firmware_bridge.c_library import PARTS, C

FUZZ = Path(__file__).parent / "fuzz"
SANITIZERS = "-fsanitize=address,undefined"
COMMON = ["-std=c99", "-g", "-O1", "-fno-sanitize-recover=all", "-ffp-contract=off", f"-I{C / 'include'}"]


def sources(folder: Path | None = None) -> list[str]:
    return [str((folder or C / "src") / f"{part}.c") for part in PARTS]


def built(out: Path, parts: list[str]) -> Path:
    command = ["cc", *COMMON, SANITIZERS, str(FUZZ / "targets.c"), str(FUZZ / "driver.c"), *parts, "-o", str(out)]
    subprocess.run(command, check=True)
    return out


def run(program: Path, count: int, seed: int, target: int) -> subprocess.CompletedProcess[str]:
    command = [str(program), str(count), str(seed), str(target)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=program.parent)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_no_input_finds_a_fault(tmp_path: Path) -> None:
    program = built(tmp_path / "fuzzer", sources())
    for target in range(5):
        done = run(program, repetitions(50_000, 2_000_000), 1, target)
        assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_libfuzzer_finds_none_either(tmp_path: Path) -> None:
    clang = shutil.which("clang")
    if clang is None:
        pytest.skip("needs clang")
    command = [clang, *COMMON, "-fsanitize=fuzzer,address,undefined", str(FUZZ / "targets.c"), *sources()]
    if subprocess.run([*command, "-o", str(tmp_path / "fuzzer")], check=False, capture_output=True).returncode:
        pytest.skip("this clang has no libFuzzer")
    (tmp_path / "corpus").mkdir()
    options = [f"-runs={repetitions(20_000, 10_000_000)}", "-max_len=1500", "-seed=1", "corpus"]
    done = subprocess.run(
        [str(tmp_path / "fuzzer"), *options], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]


PLANTED = [
    (0, "sk_packet", "if (d->n_stuffed >= SK_MAX_STUFFED)", "if (d->n_stuffed >= 60000u)"),
    (1, "sk_head", "offset > h->next_bytes || n_bytes > h->next_bytes - offset || offset", "offset"),
    (2, "sk_head", " || rest[NAME + SK_HEAD_NAME_BYTES - 1u] != 0", ""),
    (3, "sk_adpcm", "block[2] > 88 || ", ""),
    (3, "sk_adpcm", "n_bytes < 4 || ", ""),
    (4, "sk_update", "if (!(x[i] >= -LARGEST && x[i] <= LARGEST))", "if (x[i] > 3e38f)"),
]


@pytest.mark.parametrize(("target", "part", "what", "by"), PLANTED)
def test_a_fault_that_is_planted_is_found(target: int, part: str, what: str, by: str, tmp_path: Path) -> None:
    """A check is taken out of a copy of the source: inputs of a few seconds must notice."""
    parts = []
    for name in PARTS:
        source = (C / "src" / f"{name}.c").read_text()
        if name == part:
            assert what in source, f"{part}.c does not say {what!r} any more"
            source = source.replace(what, by)
        parts.append(str(tmp_path / f"{name}.c"))
        Path(parts[-1]).write_text(source)
    done = run(built(tmp_path / "fuzzer", parts), 200_000, 1, target)
    assert done.returncode != 0 and "0 findings" not in done.stdout
