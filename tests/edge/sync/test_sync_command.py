"""`soundkeep sync` as a person uses it, against `soundkeep-trainer serve`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edge.bundle import Bundle
from edge.cli import main
from tests.bundles import SAMPLE_RATE, TONES, tone, write_tiny_bundle, write_wav
from tests.simulators.listener_process import listener_process
from tests.simulators.resync_server import ResyncServer


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("ear") / "tiny")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Iterator[ResyncServer]:
    with ResyncServer(tmp_path_factory.mktemp("server"), bundle.space) as running:
        yield running


class Person:
    def __init__(self, state: Path, bundle: Bundle) -> None:
        self.state = state
        self.options = ["--state", str(state), "--bundle", str(bundle.path)]

    def run(self, *words: str, good: bool = True, say: str = "") -> str:
        done = CliRunner().invoke(main, [*self.options, *words], input=say)
        assert (done.exit_code == 0) is good, done.output
        return done.output

    def ask(self, *words: str) -> dict[str, Any]:
        done = CliRunner().invoke(main, ["--json", *self.options, *words])
        assert done.exit_code == 0, done.output
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def teach(self, folder: Path, label: str) -> None:
        rng = np.random.default_rng(len(label))
        wav = write_wav(folder / f"{label}.wav", tone(TONES.get(label, 500.0), 1.5, rng), SAMPLE_RATE)
        self.run("teach", label, str(wav))


def test_a_day_with_sync(quick: Path, server: ResyncServer, bundle: Bundle) -> None:
    person = Person(quick / "state", bundle)
    assert "nothing leaves this device" in person.run("sync", "status")
    assert "not enrolled" in person.run("sync", "now", good=False)
    person.teach(quick, "bell")
    said = person.run("sync", "enrol", server.url, server.token(), "--name", "kitchen")
    assert "What leaves this device:\n  * the names of your sounds" in said and "as kitchen" in said
    assert "enrolled at" in person.run("sync", "enrol", server.url, server.token(), good=False)
    now = person.ask("sync", "now")
    assert now["statement"] == "created" and now["bytes_by_kind"]["state"]["up"] > 1000
    assert person.ask("sync", "now")["statement"] == "unchanged"
    status = person.ask("sync", "status")
    assert status["level"] == "statistics" and status["waiting"]["n_records"] == 1 and status["last_success"]
    assert "state" not in status["audit"], "the last sync had nothing to tell"
    assert status["last_upload"]["by_kind"]["state"] == now["bytes_by_kind"]["state"]
    assert "last upload" in person.run("sync", "status")

    assert "nothing was changed" in person.run("sync", "share", "clips", good=False, say="n\n")
    assert "listen to them" in person.run("sync", "share", "clips", say="y\n")
    assert person.ask("sync", "status")["waiting"]["n_embeddings"] == 1
    assert person.ask("sync", "now")["n_embeddings"] == 1

    person.teach(quick, "hum")
    assert person.ask("sync", "private", "hum")["private_labels"] == ["hum"]
    person.ask("sync", "now")
    assert server.rows("SELECT labels FROM state") == [('{"bell": 5}',)]
    assert "takes nothing back" in person.run("sync", "share", "nothing")
    assert "level of sharing is nothing" in person.run("sync", "now", good=False)
    device_id = person.ask("sync", "status")["device_id"]
    assert f"devices remove {device_id}" in person.run("sync", "off")
    assert not (person.state / "sync").exists()
    assert "bell" in person.run("classes") and "hum" in person.run("classes")


def test_a_server_with_another_root_is_refused_and_nothing_is_kept(
    quick: Path, server: ResyncServer, bundle: Bundle
) -> None:
    person = Person(quick / "state", bundle)
    token = server.token()[:22] + "A" * 22
    assert "not the server that" in person.run("sync", "enrol", server.url, token, good=False)
    assert person.ask("sync", "status") == {"enrolled": False, "slot": "none"}
    assert "not encrypted" in person.run("sync", "enrol", "http://home.example", token, good=False)


def test_now_works_beside_a_running_listener(quick: Path, server: ResyncServer, bundle: Bundle) -> None:
    person = Person(quick / "state", bundle)
    person.teach(quick, "bell")
    person.run("sync", "enrol", server.url, server.token())
    with listener_process(person.state, bundle.path) as listener:
        listener.play(tone(TONES["hum"], 2.0, np.random.default_rng(1)))
        with listener.client as client:
            client.teach_last("hum", 1.0)
        assert person.ask("sync", "now")["statement"] in ("created", "unchanged")
        assert person.ask("sync", "status")["waiting"]["n_records"] == 2


def test_a_published_backbone_comes_with_the_next_sync(quick: Path) -> None:
    from edge.sync.slots import load_slots
    from tests.simulators.ears import write_ear
    from trainer.server.repository import add_bundle, ensure_repository
    from trainer.server.signing_keys import offline_folder

    old, new = write_ear(quick / "old", version=1), write_ear(quick / "new", version=2, seed=1)
    data = quick / "server"
    data.mkdir()
    ensure_repository(data)
    with ResyncServer(data, old.space, new.space) as server:
        state = quick / "state"
        person = Person(state, old)
        person.run("backbone", "use", str(old.path))
        person.options = ["--state", str(state)]
        person.teach(quick, "bell")
        token = server.token()
        assert len(token) == 44
        person.run("sync", "enrol", server.url, token)
        person.ask("sync", "now")
        status = person.ask("sync", "status")
        assert (status["slot"], status["bundle_trouble"]) == ("none", None)
        add_bundle(data, [offline_folder(data)], new)
        now = person.ask("sync", "now")
        status = person.ask("sync", "status")
        assert now["bytes_by_kind"]["bundles"]["down"] > 1000
        (slot,) = load_slots(state)[0].slots.values()
        assert (slot.sha256, slot.version) == (new.sha256, 2)
        assert slot.state == "VERIFIED" and status["bundle_trouble"] is None

        assert "no clip of them is kept" in person.run("sync", "status")
        down = person.ask("sync", "now")["bytes_by_kind"]["bundles"]["down"]
        assert down < 2000, "what was downloaded once is not downloaded again"

        target = next((data / "repository" / "targets").iterdir())
        target.write_bytes(bytes(len(target.read_bytes())))
        other = Person(quick / "other", old)
        other.run("backbone", "use", str(old.path))
        assert "bundles" not in _enrolled_and_synced(other, server)["bytes_by_kind"], "--bundle names the one to use"
        other.options = ["--state", str(quick / "other")]
        other.teach(quick, "hum")
        assert other.ask("sync", "now")["statement"] == "created"  # what was learnt is exchanged all the same
        assert "NOT TRUSTED" in other.ask("sync", "status")["bundle_trouble"]
        assert load_slots(other.state)[0].slots == {}


def _enrolled_and_synced(person: Person, server: ResyncServer) -> dict[str, Any]:
    person.run("sync", "enrol", server.url, server.token())
    return person.ask("sync", "now")


def test_a_stick_is_believed_for_its_signatures_alone(quick: Path, server: ResyncServer) -> None:
    from edge.sync.slots import load_slots
    from tests.simulators.ears import write_ear
    from trainer.server.export_stick import export_repository
    from trainer.server.repository import add_bundle, ensure_repository
    from trainer.server.signing_keys import offline_folder

    old, new = write_ear(quick / "old", version=1), write_ear(quick / "new", version=2, seed=1)
    sticks, roots = [], []
    for name in ("ours", "theirs"):
        data = quick / name
        data.mkdir()
        ensure_repository(data)
        add_bundle(data, [offline_folder(data)], new)
        export_repository(data, quick / f"stick of {name}", 30.0, time.time())
        sticks.append(str(quick / f"stick of {name}"))
        roots.append(str(data / "repository" / "metadata" / "1.root.json"))
    state = quick / "state"
    person = Person(state, old)
    person.run("backbone", "use", str(old.path))
    person.options = ["--state", str(state)]
    (state / "soundkeep.toml").write_text("[learn]\nclip_budget_bytes = 10000000\n")
    person.teach(quick, "bell")
    assert "--root" in person.run("sync", "bundle", sticks[0], good=False)
    assert "has no metadata/timestamp.json" in person.run("sync", "bundle", str(quick), "--root", roots[0], good=False)
    assert "is not signed by the keys of this fleet" in person.run(
        "sync", "bundle", sticks[1], "--root", roots[0], good=False
    )
    assert load_slots(state)[0].slots == {}
    with listener_process(state, old.path):
        assert "a listener runs" in person.run("sync", "bundle", sticks[0], good=False)
    taken = person.ask("sync", "bundle", sticks[0], "--root", roots[0])["taken"]
    assert (taken["version"], taken["state"]) == (2, "TRIAL")
    assert person.ask("sync", "bundle", sticks[0])["taken"] is None
    assert "another root file" in person.run("sync", "bundle", sticks[1], "--root", roots[1], good=False)
    assert person.ask("sync", "status") == {"enrolled": False, "slot": "TRIAL"}
    person.run("sync", "enrol", server.url, server.token())  # another fleet, another root: it begins anew
    assert not (state / "sync" / "trust").exists()
