"""Signed requests to the server: each attempt signed anew, failures retried and paid for out of the hour's budget.

The one file of ``edge.sync`` that knows httpx. An answer that is not in the protocol's words (a proxy's page, the
portal of a guest network) counts as no answer.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from edge.errors import SyncError
from edge.sync.device_file import is_loopback, parse_server
from edge.sync.keys import DeviceKey
from edge.sync.outbox import Outbox
from edge.sync.printable import printable
from edge.sync.retry import TO_BEGIN, StoppedError, TryLaterError, Verdict, delay_s, judge, retry_after_s
from edge.sync.signing import NONCE_BYTES, sign_request

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
ANSWER_SECONDS = 120.0
STREAM_SECONDS = 900.0
MAX_ANSWER_BYTES = 4 << 20
STREAM_BYTES = 64 * 1024
PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Answer:
    """One answer in the protocol's words. body: its JSON object, {} for a HEAD. headers: names in lower case."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str]

    @property
    def kind(self) -> str | None:
        kind = self.body.get("kind")
        return kind if isinstance(kind, str) else None

    @property
    def sentence(self) -> str:
        """Why it was refused."""
        said = self.body.get("error")
        return printable(said) if isinstance(said, str) else f"the server refused with status {self.status}"


@dataclass(frozen=True)
class Streamed:
    """An answer whose body is still on the wire. Reading ``chunks`` raises TryLaterError when the wire breaks."""

    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes]


@dataclass
class Audit:
    """Bytes and requests of one sync, by what they were for. Headers count; TLS does not."""

    by_kind: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, kind: str, *, up: int = 0, down: int = 0, requests: int = 0) -> None:
        entry = self.by_kind.setdefault(kind, {"requests": 0, "up": 0, "down": 0})
        entry["requests"] += requests
        entry["up"] += up
        entry["down"] += down


class SignedClient:
    """Talks to one server as one device. Use in a ``with``, on one thread.

    attempts: how often one request is tried before TryLaterError goes to the caller. sleep: waits between attempts.
    insist: the request was asked for by a person, so it goes out over an empty budget unless the last one failed.
    """

    def __init__(
        self,
        server: str,
        key: DeviceKey,
        outbox: Outbox,
        *,
        ca_path: Path | None = None,
        attempts: int = 4,
        insist: bool = False,
        rng: np.random.Generator | None = None,
        sleep: Callable[[float], object] = time.sleep,
        read_s: float = READ_SECONDS,
    ) -> None:
        import httpx

        self.server = parse_server(server)
        self.audit = Audit()
        self._key = key
        self._outbox = outbox
        self._attempts = attempts
        self._insist = insist
        self._rng = rng or np.random.default_rng()
        self._sleep = sleep
        verify: Any = self.server.startswith("https:")  # loading certificates that nobody will show costs CPU
        if verify and ca_path is not None and ca_path.exists():
            import ssl

            try:
                verify = ssl.create_default_context(cafile=str(ca_path))
            except (OSError, ssl.SSLError) as error:
                raise SyncError(f"the certificates in {ca_path} cannot be read ({error}); enrol again") from error
        self._http = httpx.Client(
            timeout=httpx.Timeout(read_s, connect=CONNECT_SECONDS),
            trust_env=not is_loopback(urlsplit(self.server).hostname or ""),
            headers={"accept-encoding": "identity"},
            follow_redirects=False,
            verify=verify,
        )

    def __enter__(self) -> SignedClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    # ---- what is asked ----------------------------------------------------------------------------------------------

    def enrol(self, token: str, name: str) -> tuple[str, bytes]:
        """Register this device's key. Returns device id and the first TUF root file (b"" when the server has none).

        Raises SyncError with the server's sentence, TryLaterError.
        """
        public = base64.urlsafe_b64encode(self._key.public_bytes).decode("ascii")
        answer = self.ask_json("/v1/enrol", {"token": token, "public_key": public, "name": name}, kind="enrol")
        device_id = answer.body.get("device_id")
        if device_id != self._key.device_id:
            raise SyncError(f"the server at {self.server} enrolled another key than ours; check the address")
        try:
            root = base64.b64decode(answer.body.get("root") or "", validate=True)
        except (ValueError, TypeError):
            raise SyncError(f"the server at {self.server} sent a root file that cannot be read; try again") from None
        return device_id, root

    def poll(self, report: Mapping[str, Any]) -> Mapping[str, Any]:
        """Report, and hear what the server holds of this device. Raises SyncError, TryLaterError, StoppedError."""
        return self.ask_json("/v1/poll", report, kind="poll", idle=True).body

    def ask_json(self, target: str, value: Mapping[str, Any], *, kind: str, idle: bool = False) -> Answer:
        """POST a JSON object; any refusal is a SyncError."""
        body = json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode("ascii")
        answer = self.ask("POST", target, body, kind=kind, idle=idle, content_type="application/json")
        if judge(answer.status, answer.kind) is not Verdict.TAKEN:
            raise SyncError(f"the server at {self.server} refused: {answer.sentence}")
        return answer

    def ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        kind: str,
        idle: bool = False,
        content_type: str = "application/octet-stream",
    ) -> Answer:
        """Send one request until it is answered in the protocol's words: taken, elsewhere or refused.

        target: path and query. kind: what its bytes are counted under. idle: it costs budget even when it is answered.
        Raises TryLaterError (attempts or the budget are spent), StoppedError.
        """
        n_failures = n_replays = 0
        while True:
            paid = self._take_request(of=TO_BEGIN if idle and n_failures == 0 else 1.0)
            answer, failure = self._attempt(method, target, body, kind, content_type)
            verdict = Verdict.LATER if answer is None else judge(answer.status, answer.kind)
            if verdict in (Verdict.TAKEN, Verdict.ELSEWHERE, Verdict.REFUSED):
                assert answer is not None
                self._outbox.put({"last_request_failed": False})
                if verdict is Verdict.TAKEN and paid and not idle:
                    self._outbox.give_request_back()
                return answer
            if verdict is Verdict.REPLAYED and n_replays == 0:
                assert answer is not None
                n_replays += 1
                self._outbox.sequence_is_at_least(_whole(answer.body.get("sequence_top")))
                continue
            self._outbox.put({"last_request_failed": True})
            if verdict is Verdict.STOPPED:
                assert answer is not None
                raise self._stopped(answer)
            n_failures += 1
            self._wait(answer, failure, n_failures)

    @contextmanager
    def stream_get(
        self, target: str, headers: Mapping[str, str] | None = None, *, kind: str = "bundles"
    ) -> Iterator[Streamed]:
        """GET with the body left on the wire, for downloads that check themselves and know how to go on.

        Any status below 500 but 408, 425, 429 and those that stop this device is the caller's to judge. One attempt.
        Raises TryLaterError, StoppedError.
        """
        import httpx

        for replays in (0, 1):
            paid = self._take_request()
            request = self._signed("GET", target, b"", headers or {})
            self.audit.add(kind, requests=1, up=_head_bytes(request))
            try:
                response = self._http.send(request, stream=True)
            except httpx.HTTPError as error:
                raise self._no_answer(error) from error
            try:
                self.audit.add(kind, down=_head_bytes(response))
                refusal = _json(_some(response)) if response.status_code >= 400 else {}
                answer = Answer(response.status_code, refusal, dict(response.headers))
                verdict = judge(answer.status, answer.kind)
                if verdict is Verdict.REPLAYED and replays == 0:
                    self._outbox.sequence_is_at_least(_whole(answer.body.get("sequence_top")))
                    continue
                if verdict is Verdict.STOPPED:
                    raise self._stopped(answer)
                if answer.status >= 500 or answer.status in (408, 409, 425, 429):
                    raise self._not_now(answer)
                if verdict is Verdict.TAKEN and paid:
                    self._outbox.give_request_back()
                yield Streamed(answer.status, answer.headers, self._chunks(response, kind))
                return
            except httpx.HTTPError as error:
                raise self._no_answer(error) from error
            finally:
                response.close()

    # ---- one attempt ------------------------------------------------------------------------------------------------

    def _attempt(
        self, method: str, target: str, body: bytes, kind: str, content_type: str
    ) -> tuple[Answer | None, Exception | None]:
        import httpx

        request = self._signed(method, target, body, {"content-type": content_type} if body else {})
        self.audit.add(kind, requests=1, up=_head_bytes(request) + len(body))
        try:
            response = self._http.send(request, stream=True)
            try:
                data = _whole_body(response)
            finally:
                response.close()
        except (httpx.HTTPError, TryLaterError) as error:
            return None, error
        self.audit.add(kind, down=_head_bytes(response) + len(data))
        value = {} if method == "HEAD" else _json(data)
        if not value and method != "HEAD" and response.status_code < 300:
            return None, SyncError("what answers there does not speak soundkeep's protocol")
        return Answer(response.status_code, value, dict(response.headers)), None

    def _signed(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> httpx.Request:
        request = self._http.build_request(method, self.server + target, content=body, headers=dict(headers))
        as_sent = request.url.raw_path.decode("ascii")
        sequence = self._outbox.next_sequence()
        request.headers.update(
            sign_request(self._key, method, as_sent, body, sequence=sequence, nonce=os.urandom(NONCE_BYTES))
        )
        return request

    def _chunks(self, response: httpx.Response, kind: str) -> Iterator[bytes]:
        import httpx

        if response.is_closed or response.is_stream_consumed:
            return
        until = time.monotonic() + STREAM_SECONDS
        try:
            for chunk in response.iter_raw():
                self.audit.add(kind, down=len(chunk))
                yield chunk
                if time.monotonic() > until:  # one that trickles must not hold the thread, and the lock, for days
                    raise self._no_answer(TimeoutError(f"not whole after {STREAM_SECONDS:.0f} s"))
        except httpx.HTTPError as error:
            raise self._no_answer(error) from error

    # ---- patience ---------------------------------------------------------------------------------------------------

    def _take_request(self, *, of: float = 1.0) -> bool:
        """Pay for a request out of the budget. False: it goes out unpaid, because a person insists and all is well."""
        wait_s = self._outbox.take_request(of=of)
        if wait_s > 0.0 and not (self._insist and not self._outbox.get("last_request_failed", False)):
            raise TryLaterError(
                f"this hour's 60 requests that may lead nowhere are used up; the next is sent in {wait_s:.0f} s, and "
                f"nothing is lost meanwhile",
                wait_s=wait_s,
            )
        return wait_s == 0.0

    def _wait(self, answer: Answer | None, failure: Exception | None, n_failures: int) -> None:
        """Wait before the next attempt, or raise TryLaterError when that is the caller's to do."""
        asked = None if answer is None else retry_after_s(answer.headers.get("retry-after"))
        wait_s = delay_s(n_failures, self._rng, retry_after_s=asked)
        if n_failures >= self._attempts or wait_s > PATIENCE_SECONDS:
            if answer is None:
                raise self._no_answer(failure, wait_s)
            raise self._not_now(answer, wait_s)
        self._sleep(wait_s)

    def _stopped(self, answer: Answer) -> StoppedError:
        return StoppedError(
            f"the server at {self.server} does not serve this device: {answer.sentence}; ask its operator for a token, "
            f"then `soundkeep sync off` and `soundkeep sync enrol URL TOKEN`; what was learnt here stays"
        )

    def _no_answer(self, failure: Exception | None, wait_s: float = 0.0) -> TryLaterError:
        self._outbox.put({"last_request_failed": True})
        why = str(failure) or type(failure).__name__
        return TryLaterError(
            f"the server at {self.server} does not answer ({why}); nothing is lost, it is tried again", wait_s=wait_s
        )

    def _not_now(self, answer: Answer, wait_s: float | None = None) -> TryLaterError:
        self._outbox.put({"last_request_failed": True})
        asked = retry_after_s(answer.headers.get("retry-after")) or 0.0
        return TryLaterError(
            f"the server at {self.server} cannot answer now ({answer.sentence}); nothing is lost, it is tried again",
            wait_s=asked if wait_s is None else wait_s,
        )


def _whole_body(response: httpx.Response) -> bytes:
    """Read a short answer: bounded in bytes and, against one that trickles, in time.

    Pieces are taken as they come: asked for pieces of one size, httpx would hold a trickle back until one is full.
    """
    until = time.monotonic() + ANSWER_SECONDS
    data = b""
    for chunk in response.iter_raw():
        data += chunk
        if len(data) > MAX_ANSWER_BYTES or time.monotonic() > until:
            raise TryLaterError("its answer does not end")
    return data


def _some(response: httpx.Response) -> bytes:
    """Read the start of a refusal, for its sentence."""
    until = time.monotonic() + ANSWER_SECONDS
    data = b""
    for chunk in response.iter_raw():
        data += chunk
        if len(data) > STREAM_BYTES or time.monotonic() > until:
            break
    return data[:STREAM_BYTES]


def _json(data: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _whole(value: object) -> int:
    return value if type(value) is int and value >= 0 else 0


def _head_bytes(message: httpx.Request | httpx.Response) -> int:
    """Bytes of the first line and the headers, as HTTP/1.1 writes them, give or take the reason phrase."""
    return 20 + sum(len(name) + len(value) + 4 for name, value in message.headers.raw)
