"""Who may come in. No I/O: headers in, refusal out."""

from __future__ import annotations

import pytest

from edge.api_guard import Guard

GUARD = Guard(token="secret-token", host="127.0.0.1", port=8737)
TOKEN = (b"authorization", b"Bearer secret-token")


def status(*headers: tuple[bytes, bytes], subprotocols: tuple[str, ...] = ()) -> int:
    refusal = GUARD.refusal(headers, subprotocols)
    return 200 if refusal is None else refusal.status


@pytest.mark.parametrize(
    "host", [b"127.0.0.1:8737", b"localhost:8737", b"LOCALHOST:8737", b"[::1]:8737", b"192.168.1.7:8737"]
)
def test_our_own_addresses_are_us(host: bytes) -> None:
    assert status((b"host", host), TOKEN) == 200


@pytest.mark.parametrize(
    "host",
    [b"evil.example:8737", b"localhost.evil.example:8737", b"127.0.0.1.evil.example:8737", b"127.0.0.1:80",
     b"127.0.0.1", b"", b"[::1", b"127.0.0.1:8737:8737", b"user@127.0.0.1:8737"],
)  # fmt: skip
def test_a_rebound_or_odd_host_is_not_us(host: bytes) -> None:
    """DNS rebinding: the attacker's name resolves to 127.0.0.1, and the browser sends that name."""
    assert status((b"host", host), TOKEN) == 403


def test_no_host_and_two_hosts_are_refused() -> None:
    assert status(TOKEN) == 403
    assert status((b"host", b"127.0.0.1:8737"), (b"host", b"127.0.0.1:8737"), TOKEN) == 403


@pytest.mark.parametrize(
    "origin", [b"http://evil.example", b"null", b"https://127.0.0.1:8737", b"http://127.0.0.1:9999", b""]
)
def test_another_origin_is_refused_even_with_the_token(origin: bytes) -> None:
    """CSRF: a page of another site makes the browser send a request here; the browser names that site."""
    assert status((b"host", b"127.0.0.1:8737"), (b"origin", origin), TOKEN) == 403


def test_our_own_origin_is_welcome() -> None:
    assert status((b"host", b"localhost:8737"), (b"origin", b"http://localhost:8737"), TOKEN) == 200


@pytest.mark.parametrize(
    "value", [b"", b"Bearer", b"Bearer wrong", b"Basic secret-token", b"secret-token", b"Bearer \xff"]
)
def test_the_token_is_required_on_loopback_too(value: bytes) -> None:
    assert status((b"host", b"127.0.0.1:8737"), (b"authorization", value)) == 401


def test_a_websocket_may_offer_the_token_as_a_subprotocol() -> None:
    host = (b"host", b"127.0.0.1:8737")
    assert status(host, subprotocols=("soundkeep-events-1", "bearer.secret-token")) == 200
    assert status(host, subprotocols=("bearer.wrong",)) == 401
    assert status(host, (b"origin", b"http://evil.example"), subprotocols=("bearer.secret-token",)) == 403


def test_without_the_host_check_a_rebound_name_would_come_in() -> None:
    """The mechanism switched off: a guard that takes every name for its own."""

    class Naive(Guard):
        def _is_us(self, host: str) -> bool:
            return True

    naive = Naive(token="secret-token", host="127.0.0.1", port=8737)
    assert naive.refusal([(b"host", b"evil.example:8737"), TOKEN]) is None
