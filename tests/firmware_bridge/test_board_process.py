"""A board that recognises, as its owner meets it: `soundkeep-bridge` as a process, the board in QEMU."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from edge.cli import main as soundkeep
from firmware_bridge import protocol as p
from tests.bundles import write_wav
from tests.export.c.written import small_bundle, written
from tests.firmware_bridge.test_board_heads import RATE, SOUNDS
from tests.firmware_bridge.test_bridge_process import teach
from tests.simulators.bridge_process import bridge, bridge_listener
from tests.simulators.emulated_board import Line, firmware, needs_board, running_board

pytestmark = needs_board


def test_what_is_taught_while_it_listens_is_known_on_the_board(tmp_path: Path) -> None:
    """`listen --head` sends a head within seconds of a teaching; `watch` then prints what the board hears by itself."""
    state, bundle = tmp_path / "state", small_bundle()
    state.mkdir()
    (state / "config.toml").write_text("[decision]\nthreshold = 3.8\nlow_threshold = 3.5\n")
    bell = SOUNDS["bell"][: 8 * RATE // 5]
    now_and_then = np.concatenate([np.zeros(2 * RATE, dtype=np.int16), bell] * 60)
    heard = np.concatenate([np.tile(SOUNDS["bell"], 4), now_and_then])
    as_owner = ("--state", state, "--bundle", bundle.path, "--json")
    with running_board(firmware(written().path), heard, speed=1.0) as address:
        with bridge_listener(state, bundle.path, address, "--head") as listener:
            listener.wait_until_heard(3.7)
            teach(state, bundle, "bell", "--last", "1.5")
            time.sleep(4.0)  # two looks of the keeper, and the bytes
            _, words = listener.stop()
        assert "mps2-an386 knows nothing" in words and "mps2-an386 knows bell" in words
        watched = bridge(*as_owner, "watch", address, "--seconds", "7")
        rows = [json.loads(line) for line in watched.stdout.splitlines()]
        assert {row["label"] for row in rows} == {"bell", None}, watched
        assert all(row["head"] > 0 and (row["label"] is None or row["score"] >= 3.8) for row in rows)
        assert "mps2-an386 at tcp:" in watched.stderr and "has head" in watched.stderr
        sent = bridge(*as_owner, "head", address, "--head-version", "7")
        assert sent.returncode == 0 and json.loads(sent.stdout)["labels"] == ["bell"], sent.stderr
        other = bridge("--state", tmp_path / "other", "head", address)
        assert other.returncode == 1 and "was built with ear" in other.stderr and "--bundle" in other.stderr


def test_what_was_taught_to_the_board_alone_is_learnt_by_the_host(tmp_path: Path) -> None:
    state, bundle = tmp_path / "state", small_bundle()
    as_owner = ("--state", state, "--bundle", bundle.path, "--json")
    write_wav(tmp_path / "bell.wav", SOUNDS["bell"].astype(np.float32) / 32768.0, RATE)
    teach(state, bundle, "bell", str(tmp_path / "bell.wav"))
    elf = firmware(written().path, "-DTEACH")
    with running_board(elf, np.tile(SOUNDS["hum"], 100), speed=1.0, number=77) as address:
        assert bridge(*as_owner, "head", address).returncode == 0
        with Line(address) as line:
            line.send(p.HostHello(p.PROTOCOL_VERSION, 11))
            line.wait(p.Scores)
            line.send(p.Teach(77, 0), seq=1)
            line.wait(p.Example)
        with bridge_listener(state, bundle.path, address, "--head") as listener:
            time.sleep(5.0)
            _, words = listener.stop()
    assert "learnt 1 example(s) that the device was taught by itself" in words, words
    asked = CliRunner().invoke(soundkeep, [*map(str, as_owner), "classes"])
    known = [json.loads(line) for line in asked.stdout.splitlines()]
    assert [(entry["label"], entry["n_records"]) for entry in known] == [("bell", 2)], asked.output
