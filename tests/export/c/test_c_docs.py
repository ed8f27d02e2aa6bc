"""The program in docs/c_export.md, as it stands there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from export.c.host import FLAGS, compiler, pcm_of
from tests.conftest import REPOSITORY
from tests.export.c.written import made_windows, written


def test_the_program_of_the_page_builds_and_hears(tmp_path: Path) -> None:
    cc = compiler()
    if cc is None:
        pytest.skip("needs a C compiler")
    page = (REPOSITORY / "docs" / "c_export.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```c\n(.*?)```", page, re.DOTALL)
    source, program, c = tmp_path / "program.c", tmp_path / "program", written().path
    source.write_text(code)
    sources = [str(source), *(str(s) for s in sorted((c / "src").glob("*.c")))]
    subprocess.run([cc, *FLAGS, "-O1", f"-I{c / 'include'}", *sources, "-o", str(program)], check=True)
    sound = np.ascontiguousarray(pcm_of(made_windows(2))).tobytes()
    heard = subprocess.run([str(program)], input=sound, capture_output=True, check=True).stdout.decode()
    assert heard == "0 known, heard none of them\n" * 2
