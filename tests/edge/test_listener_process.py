"""The listener as a real process: commands go through it, a kill loses nothing, a signal ends it in order."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edge.bundle import Bundle
from edge.cli import main
from edge.presence import PRESENCE_NAME, find_presence
from tests.bundles import TONES, noise, tone, write_tiny_bundle, write_wav
from tests.simulators.listener_process import ListenerProcess, listener_process


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("ear") / "tiny", with_prior=True)


def command(state: Path, bundle: Bundle, *arguments: object) -> tuple[int, list[Any], str]:
    options = ["--state", str(state), "--bundle", str(bundle.path), "--json", *map(str, arguments)]
    done = CliRunner().invoke(main, options)
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_commands_go_through_the_running_listener(tmp_path: Path, tiny: Bundle) -> None:
    state, rng = tmp_path / "state", np.random.default_rng(0)
    hum = write_wav(tmp_path / "hum.wav", tone(TONES["hum"], 1.0, rng))
    with listener_process(state, tiny.path) as listener:
        assert listener.presence_mode == 0o600
        listener.play(noise(1.0, rng, level=0.003))
        listener.play(tone(TONES["bell"], 1.5, rng))
        assert command(state, tiny, "teach", "bell", "--last", "1")[1][0]["records"][0]["new"]
        assert command(state, tiny, "teach", "hum", hum)[1][0]["n_records"] == 1
        assert command(state, tiny, "ignore", "--last", "0.5")[1][0]["label"] is None
        assert [c["label"] for c in command(state, tiny, "classes")[1]] == ["bell", "hum"]
        assert command(state, tiny, "rename", "hum", "fridge")[0] == 0
        assert command(state, tiny, "classes", "disable", "fridge")[0] == 0
        assert command(state, tiny, "undo")[1][0]["action"] == "disabled"
        listener.play(noise(1.5, rng, level=0.003))
        listener.play(tone(TONES["hum"], 1.0, rng))
        listener.play(noise(1.5, rng, level=0.003))
        code, answers, _ = command(state, tiny, "wrong")
        assert code == 0 and answers[0]["event"]["id"]
        assert command(state, tiny, "teach", "x" * 201, hum)[0] == 2
        assert command(state, tiny, "forget", "never taught")[0] == 2
        assert command(state, tiny, "memory", "export", tmp_path / "memory.skm")[0] == 0
        assert command(state, tiny, "memory", "import", tmp_path / "memory.skm")[1][0]["n_new"] == 0
        another = ListenerProcess(state, tiny.path)
        assert another.process.communicate(timeout=60)[1].decode().startswith("soundkeep: ")
        assert another.process.returncode == 1
        known = command(state, tiny, "memory", "verify")[1][0]
        events = listener.end()
    assert "fridge" in [event["label"] for event in events]
    assert all("time" in event for event in events)
    assert not (state / PRESENCE_NAME).exists()
    assert command(state, tiny, "memory", "verify")[1][0] == known


def test_killed_and_restarted_it_knows_what_was_acknowledged(tmp_path: Path, tiny: Bundle) -> None:
    state, rng = tmp_path / "state", np.random.default_rng(1)
    acknowledged = set()
    for name in ("bell", "hum", "beep"):
        with listener_process(state, tiny.path) as listener:
            listener.play(tone(TONES[name], 1.5, rng))
            with listener.client as client:
                acknowledged.add(client.teach_last(name, 1.0)["records"][0]["id"])
            listener.kill()
        assert find_presence(state) is not None, "a killed listener leaves its file behind"
    code, (verified,), _ = command(state, tiny, "memory", "verify")
    assert code == 0 and (verified["n_records"], verified["n_classes"]) == (3, 3)
    sound = write_wav(tmp_path / "bell.wav", tone(TONES["bell"], 1.0, rng))
    assert command(state, tiny, "classify", sound)[1][0]["label"] == "bell"
    assert command(state, tiny, "teach", "bell", sound)[0] == 0, "the file of a killed listener is no obstacle"
    with listener_process(state, tiny.path) as listener:
        listener.play(noise(1.0, rng, level=0.003))
        listener.play(tone(TONES["hum"], 1.0, rng))
        listener.play(noise(1.5, rng, level=0.003))
        assert "hum" in [event["label"] for event in listener.end()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(tmp_path: Path, tiny: Bundle, number: signal.Signals) -> None:
    state, rng = tmp_path / "state", np.random.default_rng(2)
    with listener_process(state, tiny.path) as listener:
        listener.play(tone(TONES["bell"], 1.5, rng))
        with listener.client as client:
            client.teach_last("bell", 1.0)
        listener.process.send_signal(number)
        _, err = listener.process.communicate(timeout=60)
    assert listener.process.returncode == 0 and b"Traceback" not in err
    assert not (state / PRESENCE_NAME).exists()
    assert list(state.glob("*.snapshot"))


def test_a_busy_explicit_port_is_exit_1(tmp_path: Path, tiny: Bundle) -> None:
    with listener_process(tmp_path / "a", tiny.path, "--api", "127.0.0.1:0") as first:
        presence = find_presence(first.state)
        assert presence is not None
        second = ListenerProcess(tmp_path / "b", tiny.path, "--api", f"127.0.0.1:{presence.port}")
        err = second.process.communicate(timeout=60)[1].decode()
        assert second.process.returncode == 1 and "is in use by another program" in err
        with listener_process(tmp_path / "c", tiny.path) as third:
            assert third.process.poll() is None


def test_a_reader_that_goes_away_ends_a_replay(tmp_path: Path, tiny: Bundle) -> None:
    """`soundkeep listen | head -1`."""
    state, rng = tmp_path / "state", np.random.default_rng(3)
    with listener_process(state, tiny.path) as listener:
        listener.play(tone(TONES["bell"], 1.5, rng))
        with listener.client as client:
            client.teach_last("bell", 1.0)
        assert listener.process.stdout is not None
        listener.process.stdout.close()
        for _ in range(3):
            if listener.process.poll() is not None:
                break
            try:
                listener.play(np.concatenate([noise(1.5, rng, level=0.003), tone(TONES["bell"], 1.0, rng)]))
            except Exception:
                break
        assert listener.process.wait(timeout=30) == 0
