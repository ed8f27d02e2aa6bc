"""The live API over a real socket: a real uvicorn, a real client, a whole listener behind it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from edge.api import EVENTS_SUBPROTOCOL, make_app
from edge.api_guard import Guard
from edge.api_server import ApiServer, bind, is_loopback, parse_address
from edge.api_words import example_to_json
from edge.audio_stream import SourceHealth
from edge.client import ListenerClient
from edge.config import ApiSettings
from edge.errors import ApiError, MisuseError
from edge.hearing import hear, sounding_example
from edge.memory_file import decode_memory, encode_memory
from edge.presence import Presence
from tests.bundles import SAMPLE_RATE, SPACE, TONES, SpectrumEmbedder, noise, tone, write_wav
from tests.simulators.running_listener import RunningListener, running_listener

TOKEN = "test-token"
LIMITS = ApiSettings(max_audio_bytes=200_000, max_json_bytes=100_000, max_memory_bytes=1_000_000, max_waiting_events=4)


@dataclass
class Served:
    """A listener with its API."""

    run: RunningListener
    port: int
    http: httpx.Client

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)


@contextmanager
def served(state_dir: Path) -> Iterator[Served]:
    with running_listener(state_dir) as run:
        bound = bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        app = make_app(run.live, Guard(TOKEN, "127.0.0.1", port), LIMITS)
        headers = {"authorization": f"Bearer {TOKEN}"}
        with ApiServer(app, bound), httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers) as http:
            yield Served(run, port, http)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One listener for the tests that leave it as it was."""
    with served(tmp_path_factory.mktemp("state")) as made:
        made.run.hear(tone(TONES["bell"], 2.0, np.random.default_rng(0)))
        made.post("/teach", label="bell", seconds=1.5)
        yield made


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as made:
        yield made


def wav(samples: NDArray[np.float32], folder: Path) -> bytes:
    return write_wav(folder / "x.wav", samples).read_bytes()


# ---- what it does ---------------------------------------------------------------------------------------------------


def test_teach_from_the_last_seconds_and_it_is_known_from_the_next_window_on(fresh: Served) -> None:
    rng = np.random.default_rng(0)
    fresh.run.hear(tone(TONES["bell"], 1.5, rng))
    answer = fresh.post("/teach", label=" bell ", seconds=1.0).json()
    assert answer["label"] == "bell" and answer["records"][0]["n_windows"] == 3 and answer["n_records"] == 1
    fresh.run.hear(tone(TONES["bell"], 0.5, rng))
    assert fresh.run.events[-1].label == "bell" or any(e.label == "bell" for e in fresh.run.events)
    assert fresh.http.get("/classes").json()[0]["label"] == "bell"


def test_teach_from_the_next_seconds(fresh: Served) -> None:
    rng = np.random.default_rng(1)
    fresh.run.hear(noise(1.0, rng))
    import threading

    player = threading.Timer(0.2, lambda: fresh.run.source.play(tone(TONES["hum"], 2.0, rng)))
    player.start()
    answer = fresh.post("/teach", label="hum", record=1.5).json()
    player.join()
    assert answer["records"][0]["n_windows"] == 5


def test_teach_and_ignore_from_an_uploaded_recording(fresh: Served, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    body = wav(tone(TONES["beep"], 1.0, rng), tmp_path)
    headers = {"content-type": "audio/wav"}
    answer = fresh.http.post("/teach", params={"label": "beep"}, content=body, headers=headers).json()
    assert answer["label"] == "beep" and answer["records"][0]["file"] == "upload"
    body = wav(noise(1.0, rng), tmp_path)
    assert fresh.http.post("/ignore", content=body, headers=headers).json()["label"] is None
    assert fresh.run.learner.n_records == 2


def test_teach_from_examples_that_were_embedded_elsewhere(fresh: Served) -> None:
    heard = hear(tone(TONES["beep"], 1.0, np.random.default_rng(3)), SpectrumEmbedder())
    example = sounding_example(heard, {"file": "beep.wav"})
    answer = fresh.post("/teach", label="beep", examples=[example_to_json(example)]).json()
    assert answer["records"][0]["file"] == "beep.wav"
    known = next(iter(fresh.run.learner.records.values()))
    np.testing.assert_array_equal(known.embeddings, example.embeddings)


def test_commands_over_the_api_are_the_commands_of_the_learner(fresh: Served) -> None:
    rng = np.random.default_rng(4)
    fresh.run.hear(tone(TONES["bell"], 1.0, rng))
    record = fresh.post("/teach", label="bell", seconds=0.5).json()["records"][0]["id"]
    fresh.run.hear(tone(TONES["hum"], 1.0, rng))
    fresh.post("/teach", label="hum", seconds=0.5)
    assert fresh.post("/rename", old="hum", new="drone").json()["n_records"] == 1
    assert fresh.post("/classes", label="drone", enabled=False).json() == {"label": "drone", "enabled": False}
    assert fresh.post("/merge", label="bell", into="drone").json()["action"] == "merged"
    assert [c["label"] for c in fresh.http.get("/classes").json()] == ["drone"]
    assert fresh.post("/undo").json()["action"] == "merged"
    assert fresh.post("/forget", record=record[:12]).json()["n_records"] == 1
    assert fresh.post("/forget", label="drone", purge=True).json()["purged"] is True
    assert fresh.http.get("/classes").json() == []
    assert [e["action"] for e in fresh.http.get("/history").json()][:2] == ["taught", "taught"]


def test_memory_goes_out_and_comes_in_as_the_same_bytes(fresh: Served, tmp_path: Path) -> None:
    fresh.run.hear(tone(TONES["bell"], 1.0, np.random.default_rng(5)))
    fresh.post("/teach", label="bell", seconds=0.5)
    data = fresh.http.get("/memory").content
    assert data == encode_memory(SPACE, fresh.run.learner.records)
    with served(tmp_path / "other") as other:
        answer = other.http.post("/memory", content=data).json()
        assert (answer["n_new"], answer["n_known"]) == (1, 0)
        assert other.http.post("/memory", content=data).json()["n_known"] == 1
        assert other.http.get("/memory").content == data
        assert len(decode_memory(data)[1]) == 1


def test_wrong_ignores_the_newest_event(fresh: Served) -> None:
    rng = np.random.default_rng(6)
    fresh.run.hear(tone(TONES["bell"], 1.0, rng))
    fresh.post("/teach", label="bell", seconds=1.0)
    fresh.run.hear(noise(1.5, rng, level=0.003))
    fresh.run.hear(tone(TONES["bell"], 1.0, rng))
    fresh.run.hear(noise(1.5, rng, level=0.003))
    newest = fresh.http.get("/events").json()[-1]
    answer = fresh.post("/wrong").json()
    assert answer["event"]["id"] == newest["id"] and answer["label"] is None


def test_events_come_over_the_websocket(fresh: Served) -> None:
    rng = np.random.default_rng(7)
    fresh.run.hear(tone(TONES["bell"], 1.0, rng))
    fresh.post("/teach", label="bell", seconds=1.0)
    fresh.run.hear(noise(1.5, rng, level=0.003))
    offered = [Subprotocol(EVENTS_SUBPROTOCOL), Subprotocol(f"bearer.{TOKEN}")]
    with connect(f"ws://127.0.0.1:{fresh.port}/events", subprotocols=offered) as events:
        assert events.subprotocol == EVENTS_SUBPROTOCOL
        fresh.run.hear(tone(TONES["bell"], 1.0, rng))
        first = json.loads(events.recv(timeout=10.0))
    assert first["label"] == "bell" and first["phase"] == "onset"


def test_health_says_hearing_and_then_what_is_wrong(fresh: Served) -> None:
    before = fresh.http.get("/health")
    assert (before.status_code, before.json()["status"]) == (503, "waiting")
    fresh.run.hear(noise(1.0, np.random.default_rng(8)))
    during = fresh.http.get("/health")
    assert (during.status_code, during.json()["status"]) == (200, "hearing")
    fresh.run.source.become(SourceHealth("silent", n_overflows=3, n_lost=SAMPLE_RATE, detail="muted?"))
    after = fresh.http.get("/health").json()
    assert (after["status"], after["hearing"], after["lost_s"], after["n_overflows"]) == ("silent", False, 1.0, 3)


def test_metrics_are_prometheus_text(api: Served) -> None:
    page = api.http.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    for name in (
        "soundkeep_windows_total",
        "soundkeep_decision_latency_seconds_bucket",
        "soundkeep_audio_lost_seconds_total",
        'soundkeep_source_state{state="running"} 1.0',
        'provider="numpy"',
        "soundkeep_hearing",
        "soundkeep_source_overflows_total",
        "soundkeep_residual",
    ):
        assert name in page.text
    assert "soundkeep_classes 1.0" in page.text


# ---- who may come in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/metrics", "/classes", "/memory", "/events", "/nothing"])
def test_without_the_token_nothing_is_said(api: Served, path: str) -> None:
    answer = httpx.get(f"http://127.0.0.1:{api.port}{path}")
    assert answer.status_code == 401 and "token" in answer.json()["error"]


def test_a_page_of_another_site_cannot_teach(api: Served) -> None:
    """CSRF: a simple form post from elsewhere, with and without a stolen token."""
    known = api.run.learner.n_records
    url = f"http://127.0.0.1:{api.port}/undo"
    form = {"content-type": "text/plain", "origin": "http://evil.example"}
    assert httpx.post(url, content=b"{}", headers=form).status_code == 403
    assert api.http.post("/undo", headers={"origin": "http://evil.example"}).status_code == 403
    assert httpx.post(url, content=b"{}").status_code == 401
    assert api.run.learner.n_records == known


def test_a_rebound_name_cannot_read(api: Served) -> None:
    """DNS rebinding: the browser believes that evil.example is this machine."""
    answer = api.http.get("/classes", headers={"host": f"evil.example:{api.port}"})
    assert answer.status_code == 403 and "evil.example" in answer.json()["error"]


def test_the_websocket_is_guarded_too(api: Served) -> None:
    url = f"ws://127.0.0.1:{api.port}/events"
    for headers in ({}, {"authorization": f"Bearer {TOKEN}", "host": "evil.example"}):
        with pytest.raises(InvalidStatus), connect(url, additional_headers=headers):
            pass
    with (
        pytest.raises(InvalidStatus),
        connect(
            url,
            additional_headers={"authorization": f"Bearer {TOKEN}"},
            origin="http://evil.example",  # type: ignore[arg-type]
        ),
    ):
        pass


# ---- what is malformed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("/teach", b"{", 400, "not JSON"),
        ("/teach", b"\xff\xfe", 400, "not JSON"),
        ("/teach", b"[1]", 400, "the body is a JSON list; send one JSON object"),
        ("/teach", b"[" * 50_000, 400, "not JSON"),
        ("/teach", b"{}", 400, "'label' is missing"),
        ("/teach", b'{"label": 3}', 400, "'label' is 3; wanted text"),
        ("/teach", b'{"label": "x"}', 400, "'seconds' is missing"),
        ("/teach", b'{"label": "x", "seconds": -1}', 400, "wanted more than 0 and at most 60 seconds"),
        ("/teach", b'{"label": "x", "seconds": 1e9}', 400, "at most 60 seconds"),
        ("/teach", b'{"label": "x", "seconds": NaN}', 400, "wanted a number of seconds"),
        ("/teach", b'{"label": "x", "seconds": "1"}', 400, "wanted a number of seconds"),
        ("/teach", b'{"label": "x", "seconds": true}', 400, "wanted a number of seconds"),
        ("/teach", b'{"label": "x", "seconds": 1, "speed": 2}', 400, "'speed' is not a field here; known are label"),
        ("/teach", b'{"label": "", "seconds": 1}', 400, "is empty"),
        ("/teach", b'{"label": "_background_", "seconds": 1}', 400, "reserved"),
        ("/teach", b'{"label": "x", "examples": []}', 400, "wanted a list of one or more objects"),
        ("/teach", b'{"label": "x", "examples": [{}]}', 400, "missing or unknown fields"),
        ("/forget", b'{"label": "never taught"}', 400, "never taught"),
        ("/forget", b'{"record": "zz"}', 400, "zz"),
        ("/forget", b'{"label": "bell", "purge": "yes"}', 400, "wanted true or false"),
        ("/rename", b'{"old": "bell"}', 400, "'new' is missing"),
        ("/classes", b'{"label": "bell", "enabled": 1}', 400, "wanted true or false"),
        ("/wrong", b'{"event": 3}', 400, "'event' is 3; wanted text"),
        ("/wrong", b'{"event": "no such"}', 400, "event"),
        ("/memory", b"not a memory file", 422, "not a soundkeep memory file"),
        ("/backbone", b'{"path": "/no/such"}', 422, "/no/such"),
        ("/nothing", b"{}", 404, "POST /nothing is not part of this API"),
    ],
)  # fmt: skip
def test_what_is_malformed_gets_one_sentence(api: Served, path: str, body: bytes, status: int, sentence: str) -> None:
    known = api.run.learner.statistics_sha256
    answer = api.http.post(path, content=body)
    assert answer.status_code == status
    assert sentence in answer.json()["error"] and "\n" not in answer.json()["error"]
    assert answer.json()["exit_code"] in (1, 2)
    assert api.run.learner.statistics_sha256 == known


def test_another_method_is_not_part_of_it(api: Served) -> None:
    answer = api.http.delete("/classes")
    assert answer.status_code == 405 and "is not part of this API" in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "limit", "headers"),
    [("/teach", LIMITS.max_json_bytes, {}), ("/teach?label=x", LIMITS.max_audio_bytes, {"content-type": "audio/wav"}),
     ("/memory", LIMITS.max_memory_bytes, {})],
)  # fmt: skip
def test_a_body_over_the_limit_is_refused_announced_or_not(
    api: Served, path: str, limit: int, headers: dict[str, str]
) -> None:
    announced = api.http.post(path, content=b"x" * (limit + 1), headers=headers)
    assert announced.status_code == 413 and f"larger than {limit} bytes" in announced.json()["error"]
    pieces = (b"x" * 50_000 for _ in range(limit // 50_000 + 2))
    assert api.http.post(path, content=pieces, headers=headers).status_code == 413


@pytest.mark.parametrize(
    ("body", "sentence"), [(b"", "upload"), (b"no audio at all", "upload"), (b"RIFF....WAVE", "upload")]
)
def test_an_upload_that_is_no_audio(api: Served, body: bytes, sentence: str) -> None:
    answer = api.http.post("/teach?label=x", content=body, headers={"content-type": "audio/wav"})
    assert answer.status_code == 422 and sentence in answer.json()["error"]
    assert "/tmp" not in answer.json()["error"]


def test_an_upload_of_digital_silence_is_refused(api: Served, tmp_path: Path) -> None:
    body = wav(np.zeros(SAMPLE_RATE, dtype=np.float32), tmp_path)
    answer = api.http.post("/teach?label=x", content=body, headers={"content-type": "audio/wav"})
    assert answer.status_code == 422 and "digital silence" in answer.json()["error"]


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        ({"space": "0" * 64}, 409, "use the same --bundle"),
        ({"embeddings": "###"}, 400, "not base64"),
        ({"embeddings": 7}, 400, "not base64"),
        ({"embeddings": "AAAA"}, 400, "wanted a multiple of"),
        ({"embeddings": ""}, 400, "wanted a multiple of"),
        ({"power": [0.1]}, 400, "'power' of an example is not a list of"),
        ({"peak": "loud"}, 400, "'peak' of an example"),
        ({"provenance": []}, 400, "not a JSON object"),
    ],
)
def test_an_example_that_is_malformed(api: Served, change: dict[str, Any], status: int, sentence: str) -> None:
    heard = hear(tone(TONES["beep"], 1.0, np.random.default_rng(3)), SpectrumEmbedder())
    example = {**example_to_json(sounding_example(heard, {})), **change}
    answer = api.post("/teach", label="x", examples=[example])
    assert answer.status_code == status and sentence in answer.json()["error"]


def test_garbage_on_the_socket_does_not_stop_it(api: Served) -> None:
    for garbage in (
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /teach HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", api.port), timeout=5.0) as raw:
            raw.sendall(garbage)
            raw.settimeout(5.0)
            raw.recv(1000)
    assert api.http.get("/classes").status_code == 200


# ---- ports ----------------------------------------------------------------------------------------------------------


def test_a_busy_default_port_takes_the_next_free_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with bind(("127.0.0.1", 0)) as busy:
        taken = busy.getsockname()[1]
        monkeypatch.setattr("edge.api_server.DEFAULT_PORT", taken)
        with bind(None) as found:
            assert taken < found.getsockname()[1] <= taken + 50


def test_a_busy_explicit_port_is_refused() -> None:
    with bind(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(ApiError, match=f"port {port} of 127.0.0.1 is in use .* choose another with --api"):
            bind(("127.0.0.1", port))


@pytest.mark.parametrize("text", ["", "8737", "host:", ":8737", "127.0.0.1:http", "127.0.0.1:70000"])
def test_an_address_that_is_none(text: str) -> None:
    with pytest.raises(MisuseError, match="wanted HOST:PORT"):
        parse_address(text)


def test_addresses() -> None:
    assert parse_address(None) is None
    assert parse_address("[::1]:80") == ("::1", 80)
    assert [is_loopback(h) for h in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "192.168.0.2", "host")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


def test_a_client_of_a_listener_that_is_gone_says_so() -> None:
    with bind(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    presence = Presence(4242, "127.0.0.1", port, TOKEN, SPACE.sha256)
    with ListenerClient(presence) as client, pytest.raises(ApiError, match=r"not answer .* process 4242 still alive"):
        client.undo()
