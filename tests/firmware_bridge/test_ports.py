"""Ports of the C library: the one for a real board boots in an emulator of its family, components build as they are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edge.decision import DecisionSettings
from firmware_bridge.address import parse_address
from firmware_bridge.connection import Connection
from firmware_bridge.head_transfer import send_head
from firmware_bridge.heads import device_head
from firmware_bridge.link_events import Banks
from tests.export.c.written import written
from tests.firmware_bridge.test_board_heads import learner, taught
from tests.simulators.emulated_board import firmware, needs_board, running_board

IDF = """
cmake_minimum_required(VERSION 3.16)
project(try C)
function(idf_component_register)
  cmake_parse_arguments(A "" "" "SRCS;INCLUDE_DIRS" ${ARGN})
  add_library(soundkeep STATIC ${A_SRCS})
  foreach(dir ${A_INCLUDE_DIRS})
    target_include_directories(soundkeep PUBLIC "${CMAKE_CURRENT_LIST_DIR}/${dir}")
  endforeach()
endfunction()
set(COMPONENT_LIB soundkeep)
add_subdirectory(PORT component)
"""
ZEPHYR = """
cmake_minimum_required(VERSION 3.16)
project(try C)
set(CONFIG_SOUNDKEEP y)
macro(zephyr_library_named name)
  add_library(${name} STATIC)
  set(now ${name})
endmacro()
macro(zephyr_library_sources)
  target_sources(${now} PRIVATE ${ARGN})
endmacro()
macro(zephyr_include_directories)
  include_directories(${ARGN})
endmacro()
macro(zephyr_library_compile_options)
  target_compile_options(${now} PRIVATE ${ARGN})
endmacro()
add_subdirectory(PORT component)
"""


@needs_board
def test_the_stm32_port_greets_and_takes_heads(tmp_path: Path) -> None:
    """QEMU's STM32F405 has no clock tree, no microphone and no memory of the core's own: it starts all the same."""
    elf = firmware(written().path, port="stm32f407", variables=("CCM=0x20020000",))
    made = device_head(taught(learner(tmp_path), "bell"), DecisionSettings(), version=3)
    with (
        running_board(elf, machine="netduinoplus2", line=1) as address,
        Connection(parse_address(address)) as link,
    ):
        assert link.device.name == "stm32f407" and link.device.ear == made.ear
        send_head(link, made)
        link.ask(lambda host: host.ask_for_banks() or 0)
        banks = next(event for event in link.events() if isinstance(event, Banks))
        assert (banks.state, banks.next_version) == (2, 3), "without a microphone no window begins: it waits"
        assert next(e for e in link.events() if type(e).__name__ == "Counted").counters["n_crc"] == 0


def test_the_emulated_board_is_run_as_the_page_says() -> None:
    port = written().path / "ports" / "mps2_an386"
    for words, wanted in (
        ([], ""),
        (["SOUND=/tmp/x.image"], "-device loader,file=/tmp/x.image,addr=0x21000000,force-raw=on"),
    ):
        command = ["make", "-s", "-n", "-C", str(port), "run", *words]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "-serial tcp:127.0.0.1:8740,server=on,wait=off" in said and said.rstrip().endswith(wanted)
        assert ("loader" in said) == bool(wanted)


@needs_board
def test_the_real_board_has_room_for_it() -> None:
    """The linker refuses what does not fit; here it says how much is left of the 128 and 64 KB."""
    elf = firmware(written().path, port="stm32f407")
    said = subprocess.run(["arm-none-eabi-size", "-A", str(elf)], capture_output=True, text=True, check=True).stdout
    sizes = {row.split()[0]: int(row.split()[1]) for row in said.splitlines() if row.startswith(".")}
    assert sizes[".bss"] < 128 << 10 and sizes[".apart"] + sizes[".stack"] < 64 << 10


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
@pytest.mark.parametrize(("port", "project"), [("esp_idf", IDF), ("zephyr", ZEPHYR)])
def test_a_component_builds_all_sources(port: str, project: str, tmp_path: Path) -> None:
    """With stand-ins for the SDK's own functions, which only pass sources and folders on."""
    library = written().path
    (tmp_path / "CMakeLists.txt").write_text(project.replace("PORT", f'"{library / "ports" / port}"'))
    build = tmp_path / "build"
    for command in (["cmake", "-S", str(tmp_path), "-B", str(build)], ["cmake", "--build", str(build)]):
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stdout + answer.stderr
    names = subprocess.run(
        ["ar", "t", *map(str, build.rglob("libsoundkeep.a"))], capture_output=True, text=True, check=True
    )
    assert sorted(names.stdout.split()) == sorted(f"{path.name}.o" for path in (library / "src").glob("*.c"))
