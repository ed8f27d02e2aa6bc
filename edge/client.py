"""The command line's way to the running listener: the same words as ``LocalDesk``, over HTTP with the token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from edge.api_words import example_to_json
from edge.desk import Answer
from edge.errors import ApiError, MisuseError, SoundkeepError
from edge.hearing import Example
from edge.presence import Presence

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 120.0


class ListenerClient:
    """A desk at the running listener. Use in a ``with``. Raises what the listener refuses, with its exit code."""

    def __init__(self, presence: Presence, *, timeout_s: float = ANSWER_SECONDS) -> None:
        self.presence = presence
        self._http = httpx.Client(
            base_url=presence.url,
            headers={"authorization": f"Bearer {presence.token}"},
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_SECONDS),
            trust_env=False,
        )

    def __enter__(self) -> ListenerClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._http.close()

    def teach(self, label: str, examples: Sequence[Example]) -> Answer:
        return self._post("/teach", {"label": label, "examples": [example_to_json(e) for e in examples]})

    def ignore(self, examples: Sequence[Example]) -> Answer:
        return self._post("/ignore", {"examples": [example_to_json(e) for e in examples]})

    def teach_last(self, label: str, seconds: float) -> Answer:
        """Teach what was heard in the last ``seconds``."""
        return self._post("/teach", {"label": label, "seconds": seconds})

    def teach_next(self, label: str, seconds: float) -> Answer:
        """Teach what will be heard in the next ``seconds``; returns after them."""
        return self._post("/teach", {"label": label, "record": seconds})

    def ignore_last(self, seconds: float) -> Answer:
        return self._post("/ignore", {"seconds": seconds})

    def wrong(self, event_id: str | None = None) -> Answer:
        """Correct an event, the newest by default."""
        return self._post("/wrong", {"event": event_id})

    def forget(self, label: str, *, purge: bool = False) -> Answer:
        return self._post("/forget", {"label": label, "purge": purge})

    def forget_record(self, record_id: str, *, purge: bool = False) -> Answer:
        return self._post("/forget", {"record": record_id, "purge": purge})

    def rename(self, old: str, new: str) -> Answer:
        return self._post("/rename", {"old": old, "new": new})

    def merge_classes(self, label: str, into: str) -> Answer:
        return self._post("/merge", {"label": label, "into": into})

    def enable(self, label: str, enabled: bool) -> Answer:
        return self._post("/classes", {"label": label, "enabled": enabled})

    def undo(self) -> Answer:
        return self._post("/undo", {})

    def import_memory(self, data: bytes) -> Answer:
        return self._answer("POST", "/memory", content=data)

    def use_backbone(self, path: str) -> Answer:
        return self._post("/backbone", {"path": path})

    def health(self) -> Answer:
        """How the listener is doing, hearing or not."""
        return self._answer("GET", "/health", good=(200, 503))

    def _post(self, path: str, body: Mapping[str, Any]) -> Answer:
        return self._answer("POST", path, json=body)

    def _answer(self, method: str, path: str, *, good: Sequence[int] = (200,), **request: Any) -> Answer:
        try:
            response = self._http.request(method, path, **request)
        except httpx.HTTPError as error:
            raise ApiError(
                f"the listener at {self.presence.url} does not answer ({type(error).__name__}); "
                f"is process {self.presence.pid} still alive? start it again with `soundkeep listen`"
            ) from error
        try:
            value = response.json()
        except ValueError as error:
            raise ApiError(
                f"the listener at {self.presence.url} answered {response.status_code} without JSON"
            ) from error
        if response.status_code in good and isinstance(value, dict):
            return value
        raise _refusal(value, response.status_code)


def _refusal(value: Any, status: int) -> SoundkeepError:
    sentence = value.get("error") if isinstance(value, dict) else None
    text = sentence if isinstance(sentence, str) else f"the listener refused with status {status}"
    return MisuseError(text) if isinstance(value, dict) and value.get("exit_code") == 2 else ApiError(text)
