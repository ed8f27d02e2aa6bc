"""The status page: everything is on it, nothing of it runs, and it is shown to the right visitors only."""

from __future__ import annotations

import re
import stat
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from tests.simulators.fleet_device import FleetDevice, sound, statement
from tests.simulators.running_server import running_server
from trainer.server.database import transaction
from trainer.server.enrolment import make_token
from trainer.server.opening import Server
from trainer.server.status_page import MAX_ROWS, status_page
from trainer.server.status_visitors import VisitorRules, operator_password
from trainer.server.tables import Device, Job, PublishedBundle

EVIL = "<script>alert(1)</script>\"'&"


def fill(server: Server, http: httpx.Client) -> FleetDevice:
    """Give a server devices, jobs, bundles and refusals, some with names that try to be HTML."""
    device = FleetDevice(http, EVIL)
    assert device.enrol(make_token(server)).status_code == 201
    device.upload("state", statement(1, [sound(EVIL, 1), sound("doorbell", 2)]))
    device.upload("state", b"nonsense")
    bundle = {"name": EVIL, "version": 3, "sha256": "0" * 64, "space": "1" * 64}
    device.poll(version="1", slot=EVIL, setting="statistics", bundle=bundle)
    now = server.clock()
    with transaction(server.engine) as session:
        row = session.get(Device, device.id)
        assert row is not None
        row.status, row.status_reason = "quarantined", EVIL
        session.add(Job(created_at=now, asked_by=EVIL, status="running", stage=EVIL, progress=0.4, result={"a": EVIL}))
        session.add(
            PublishedBundle(
                sha256="a" * 64, name=EVIL, version=4, space_sha256="1" * 64, status="refused", created_at=now,
                gates={"canary": {"passed": False, "why": EVIL}},
            )
        )  # fmt: skip
    return device


class Tags(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_everything_is_on_it_and_escaped(any_engine_server: Server) -> None:
    with running_server(any_engine_server) as http:
        device = fill(any_engine_server, http)
        answer = http.get("/")
    page = answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for words in (
        device.id[:12],
        "doorbell",
        "quarantined",
        "running",
        "40 %",
        "refused",
        "canary",
        "SKSTATE",
        "form:",
    ):
        assert words in page or words == "SKSTATE", words
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;") >= 8
    tags = Tags()
    tags.feed(page)
    assert not tags.tags & {"script", "img", "link", "iframe", "form", "object"}
    assert not {name for name in tags.attributes if name.startswith("on") or name in ("src", "href", "style")}
    assert not re.search(r"https?://", page)


def test_with_many_devices_the_page_begins_with_those_that_need_a_look(sqlite_server: Server) -> None:
    with transaction(sqlite_server.engine) as session:
        for i in range(MAX_ROWS + 70):
            status, name = ("quarantined", "the liar") if i == 90 else ("active", f"device {i}")
            key = {"id": f"{i:032x}", "public_key": b"k" * 32, "enrolled_at": float(i)}
            session.add(Device(**key, name=name, status=status, last_seen_at=float(i)))
    page = status_page(sqlite_server)
    shown, _, folded = page.partition("<details>")
    assert shown.index("the liar") < shown.index(f"device {MAX_ROWS + 69}"), "then the one that was seen last"
    assert "<summary>70 more</summary>" in folded and "device 0<" in folded and "<h2>Jobs</h2>" in folded
    assert "<bdi>the liar</bdi>" in shown, "a name cannot turn the words beside it around, nor widen its column"


def test_an_empty_server_says_what_to_do(sqlite_server: Server) -> None:
    page = status_page(sqlite_server)
    assert "soundkeep sync enrol URL TOKEN" in page and "Nothing was refused" in page


def test_who_may_look(sqlite_server: Server) -> None:
    password = operator_password(sqlite_server.data_dir)
    assert stat.S_IMODE((sqlite_server.data_dir / "operator_password").stat().st_mode) == 0o600
    assert password == operator_password(sqlite_server.data_dir) and len(password) >= 22
    with running_server(sqlite_server) as http:
        assert http.get("/").status_code == 200
        assert http.get("/", headers={"host": "evil.example"}).status_code == 401  # DNS led a browser here
        assert http.get("/", headers={"host": "localhost:8738"}).status_code == 200
    with running_server(sqlite_server, behind_proxy=True) as http:
        refused = http.get("/")
        assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Basic")
        assert http.get("/", auth=("operator", password)).status_code == 200
        assert http.get("/", auth=("operator", password + "x")).status_code == 401
        assert http.get("/", headers={"authorization": "Basic ?"}).status_code == 401


@pytest.mark.parametrize(
    ("client", "host", "allowed"),
    [
        ("127.0.0.1", "127.0.0.1:8738", True),
        ("::1", "[::1]:8738", True),
        ("127.0.0.1", "", False),
        ("192.168.1.5", "127.0.0.1", False),
        (None, "localhost", False),
    ],
)
def test_loopback_only(tmp_path: Path, client: str | None, host: str, allowed: bool) -> None:
    assert (VisitorRules(tmp_path).refusal(client, {"host": host}) is None) == allowed
