"""`soundkeep-bridge` as real processes over real ports: teaching through a device, its other commands, its refusals."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from edge.bundle import Bundle, default_bundle_path, open_bundle
from edge.cli import main as soundkeep
from export.features import add_features
from firmware_bridge.address import Address, parse_address
from firmware_bridge.cli import COMMANDS, main
from firmware_bridge.front_end import FRONT_END, FrontEnd
from firmware_bridge.probing import probe_bauds, probed
from firmware_bridge.simulator import Faults
from tests.bundles import SAMPLE_RATE, TONES, noise, tone, write_tiny_bundle, write_wav
from tests.simulators.bridge_process import COMMAND, REPOSITORY, bridge, bridge_listener
from tests.simulators.device_process import free_port, simulated_device

RATE = 16_000


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("ear") / "tiny", with_prior=True)


@pytest.fixture(scope="module")
def ear(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The ear that ships with soundkeep, with its second graph."""
    return add_features(open_bundle(default_bundle_path()), tmp_path_factory.mktemp("ear") / "ear")


def scene(rng: np.random.Generator) -> NDArray[np.float32]:
    """Quiet, a bell, quiet, a bell, quiet, at the tiny ear's rate: bells begin at 2 s and at 9.5 s."""
    quiet = [noise(s, rng, level=0.003) for s in (2.0, 6.0, 60.0)]
    bells = [tone(TONES["bell"], 1.5, rng) for _ in range(2)]
    return np.concatenate([quiet[0], bells[0], quiet[1], bells[1], quiet[2]])


def pcm(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16)


def teach(state: Path, bundle: Bundle, *arguments: str) -> dict[str, object]:
    done = CliRunner().invoke(
        soundkeep, ["--state", str(state), "--bundle", str(bundle.path), "--json", "teach", *arguments]
    )
    assert done.exit_code == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


# ---- a taught sound -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["pcm16", "adpcm"])
def test_a_sound_taught_through_a_device_is_known_when_it_comes_again(tmp_path: Path, tiny: Bundle, form: str) -> None:
    samples = pcm(scene(np.random.default_rng(0)))
    with simulated_device(samples, rate=SAMPLE_RATE, speed=2.0) as simulation:
        with bridge_listener(tmp_path / "state", tiny.path, simulation.where, "--format", form) as listener:
            listener.wait_until_heard(3.75)
            assert teach(tmp_path / "state", tiny, "bell", "--last", "2")["n_records"] == 1
            listener.wait_until_heard(12.5)
            health = listener.client.health()
            events, words = listener.stop()
        known = [e for e in events if e["label"] == "bell" and e["phase"] == "onset"]
        assert len(known) == 1 and known[0]["onset_s"] == pytest.approx(9.5, abs=0.5)
        assert simulation.device.played.labels.count("bell") == 2, "its beginning and its end were told to the device"
    assert health["n_gaps"] == 0 and "listening to tcp:" in words


def test_a_sound_taught_through_features_is_known_and_no_clip_is_kept(tmp_path: Path, ear: Bundle) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "config.toml").write_text("[learn]\nclip_budget_bytes = 100000000\n")
    rng = np.random.default_rng(1)
    t = np.arange(2 * RATE) / RATE
    quiet = [0.001 * rng.standard_normal(n * RATE) for n in (3, 4, 60)]
    siren = 0.3 * np.sin(2 * np.pi * (900.0 * t + 150.0 * np.sin(2 * np.pi * 3.0 * t)))
    samples = pcm(np.concatenate([quiet[0], siren, quiet[1], siren, quiet[2]]).astype(np.float32))
    about = {"features": FrontEnd(), "front_end": bytes.fromhex(FRONT_END)[:8]}
    with (
        simulated_device(samples, speed=1.0, **about) as simulation,
        bridge_listener(state, ear.path, simulation.where, "--format", "log_mel") as listener,
    ):
        listener.wait_until_heard(5.2)
        taught = teach(state, ear, "siren", "--last", "2")
        listener.wait_until_heard(11.5)
        events, words = listener.stop()
    assert taught["n_records"] == 1 and "no sound can be kept as clips" in words
    assert not [path for path in state.rglob("*") if path.suffix in (".wav", ".flac")]
    assert [e["label"] for e in events if e["phase"] == "onset" and e["onset_s"] > 8] == ["siren"]


# ---- the other commands ---------------------------------------------------------------------------------------------


def test_a_recording_is_what_the_device_heard(tmp_path: Path) -> None:
    x = pcm(noise(3.0, np.random.default_rng(2)))
    with simulated_device(x, rate=SAMPLE_RATE, speed=4.0) as simulation:
        done = bridge("--json", "record", simulation.where, tmp_path / "out.wav", "--seconds", 2)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "out": str(tmp_path / "out.wav"), "seconds": 2.0, "n_samples": 2 * SAMPLE_RATE, "n_lost": 0
    }  # fmt: skip
    with wave.open(str(tmp_path / "out.wav")) as file:
        assert file.getframerate() == SAMPLE_RATE
        np.testing.assert_array_equal(np.frombuffer(file.readframes(10**6), dtype="<i2"), x[: 2 * SAMPLE_RATE])


def test_status_says_what_a_device_is_and_how_its_link_does() -> None:
    with simulated_device(np.zeros(RATE, dtype=np.int16), speed=1.0) as simulation:
        done = bridge("--json", "status", simulation.where, "--seconds", 1.5)
        words = bridge("status", simulation.where, "--seconds", 1.2)
    answer = json.loads(done.stdout)
    assert answer["device"]["name"] == "simulated device" and answer["device"]["sample_rate"] == RATE
    assert answer["link"]["n_good"] > 0 and answer["link"]["n_crc"] == 0 and answer["link"]["device"]["n_good"] > 0
    assert "0 damaged" in words.stdout


def test_probes_find_the_clean_rate_and_the_dirty_ones() -> None:
    """A pseudo-terminal takes any rate, so the damage is played: at 921600 and above a bit in 300 is wrong."""
    pytest.importorskip("serial")
    with simulated_device(np.zeros(RATE, dtype=np.int16), address="pty") as simulation:
        place = parse_address(simulation.where)
        fine = probed(place, n_probes=20)
        assert fine.clean and fine.n_back == 20 and fine.bytes_per_s > 0
        from firmware_bridge.transports import dialled

        def dial(address: Address):  # type: ignore[no-untyped-def]
            simulation.device._faults = Faults(flip=1 / 300 if address.number >= 921_600 else 0.0)
            return dialled(address)

        tried = probe_bauds(place, (921_600, 460_800, 115_200), n_probes=20, dial=dial)
    assert [r.address.number for r in tried] == [460_800, 115_200, 921_600]
    assert tried[0].clean and not tried[-1].clean and tried[-1].n_damaged > 0
    with simulated_device(np.zeros(RATE, dtype=np.int16), address="pty") as simulation:
        done = bridge("probe", simulation.where, "--baud", 115_200, "--probes", 5)
    assert done.returncode == 0 and "5 of 5 back" in done.stdout and "use serial:" in done.stderr


def test_a_simulated_device_is_a_process_that_others_dial(tmp_path: Path) -> None:
    x = noise(2.0, np.random.default_rng(3))
    file, port = write_wav(tmp_path / "a.wav", x, RATE), free_port()
    address = f"tcp:127.0.0.1:{port}"
    options = ["simulate", str(file), address, "--speed", "2", "--loss", "0.1"]
    device = subprocess.Popen(
        [*COMMAND, "--json", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert device.stderr is not None and address in device.stderr.readline()
    done = bridge("--json", "record", address, tmp_path / "out.wav", "--seconds", 0.5)
    out, _ = device.communicate(timeout=20.0)
    recorded, played = json.loads(done.stdout), json.loads(out)
    assert device.returncode == 0 and played["n_samples"] == len(x) * RATE // SAMPLE_RATE // 2
    assert 0 < recorded["n_lost"] <= played["n_lost"] and recorded["n_lost"] % 320 == 0


# ---- refusals -------------------------------------------------------------------------------------------------------


def refused(*arguments: object, code: int = 1, within_s: float = 20.0) -> str:
    began = time.monotonic()
    done = bridge(*arguments)
    assert done.returncode == code and time.monotonic() - began < within_s, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("soundkeep-bridge: ") and "Traceback" not in done.stderr
    return last


def test_every_refusal_is_one_sentence_and_no_hang(tmp_path: Path, tiny: Bundle) -> None:
    options = ("--state", tmp_path / "state", "--bundle", tiny.path)
    nobody = f"tcp:127.0.0.1:{free_port()}"
    assert "refused" in refused(*options, "listen", nobody, "--api", "off")
    assert "hears waveforms only" in refused(*options, "listen", nobody, "--api", "off", "--format", "log_mel")
    assert "no address of a device" in refused(*options, "listen", "usb", code=2)
    assert "no serial port" in refused("status", "serial:/dev/ttyNOPE@9600")
    with simulated_device(np.zeros(RATE, dtype=np.int16), version=9) as simulation:
        assert "version 9" in refused(*options, "listen", simulation.where, "--api", "off")
    with simulated_device(np.zeros(RATE, dtype=np.int16), faults=Faults(flip=0.02)) as simulation:
        assert "baud rate" in refused("status", simulation.where)
        assert "answered no probe" in refused("probe", simulation.where)
    with simulated_device(np.zeros(RATE, dtype=np.int16)) as simulation:
        place = simulation.where
        assert "in use" in refused("simulate", write_wav(tmp_path / "a.wav", np.zeros(SAMPLE_RATE, "f4")), place)
        assert "cannot be written" in refused("record", place, tmp_path / "no" / "out.wav")


def test_features_of_another_front_end_are_refused_by_name(tmp_path: Path, ear: Bundle) -> None:
    with simulated_device(np.zeros(RATE, dtype=np.int16), features=FrontEnd(), front_end=b"another!") as simulation:
        options = ("--state", tmp_path / "state", "--bundle", ear.path)
        words = refused(*options, "listen", simulation.where, "--api", "off", "--format", "log_mel")
    assert b"another!".hex() in words and "build its firmware from this bundle" in words


def test_a_device_that_disappears_is_told_by_the_listener_which_ends_when_it_is_told_to(
    tmp_path: Path, tiny: Bundle
) -> None:
    with (
        simulated_device(pcm(noise(60.0, np.random.default_rng(4))), rate=SAMPLE_RATE) as simulation,
        bridge_listener(tmp_path / "state", tiny.path, simulation.where) as listener,
    ):
        listener.wait_until_heard(1.0)
        simulation.stop()
        until = time.monotonic() + 10.0
        while listener.client.health()["status"] != "waiting":
            assert time.monotonic() < until
            time.sleep(0.05)
        listener.process.send_signal(signal.SIGINT)
        assert listener.process.wait(10.0) == 0


def test_help_names_every_command() -> None:
    shown = CliRunner().invoke(main, ["--help"]).stdout
    assert all(name in shown for name in COMMANDS)
    for name in COMMANDS:
        assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0, name
