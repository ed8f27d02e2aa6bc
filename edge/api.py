"""The live API: HTTP and WebSocket words for what ``edge.live.LiveListener`` can do. The one file that knows Starlette.

Every answer is JSON, every refusal ``{"error": one sentence, "kind": class, "exit_code": 1 or 2}``. Handlers only read,
check and translate: work on the model is posted to the loop, uploads are decoded and embedded off the loop.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from edge.api_body import BodyTooLargeError, Fields, read_body
from edge.api_guard import Guard
from edge.api_words import example_from_json
from edge.config import ApiSettings
from edge.decision import Event
from edge.errors import (
    ApiError,
    AudioError,
    CorruptionError,
    MisuseError,
    SoundkeepError,
    SpaceMismatchError,
    StateError,
)
from edge.hearing import Example, example_of_file
from edge.live import LiveListener
from edge.metrics import CONTENT_TYPE
from edge.sinks import event_object

EVENTS_SUBPROTOCOL = "soundkeep-events-1"
MEMORY_TYPE = "application/x-soundkeep-memory"

_T = TypeVar("_T")
_STATUS: tuple[tuple[type[SoundkeepError], int], ...] = (
    (BodyTooLargeError, 413),
    (MisuseError, 400),
    (SpaceMismatchError, 409),
    (CorruptionError, 409),
    (StateError, 507),
    (ApiError, 503),
)


def make_app(live: LiveListener, guard: Guard, settings: ApiSettings) -> ASGIApp:
    """Compose the application. Nothing starts here."""
    return Starlette(
        routes=_Handlers(live, settings).routes(),
        middleware=[Middleware(_Guarded, guard=guard)],
        exception_handlers={SoundkeepError: _refused, HTTPException: _not_here, Exception: _broken},
    )


class _Guarded:
    """ASGI middleware around Guard."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._guard.refusal(scope["headers"], scope.get("subprotocols", ()))
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            body = {"error": refusal.sentence, "kind": "ApiError", "exit_code": 1}
            await JSONResponse(body, refusal.status)(scope, receive, send)


class _Handlers:
    def __init__(self, live: LiveListener, settings: ApiSettings) -> None:
        self._live = live
        self._settings = settings
        self._one_upload = asyncio.Semaphore(1)

    def routes(self) -> list[Route | WebSocketRoute]:
        post = ["POST"]
        return [
            Route("/health", self.health),
            Route("/metrics", self.metrics),
            Route("/classes", self.classes, methods=["GET"]),
            Route("/classes", self.enable, methods=post),
            Route("/teach", self.teach, methods=post),
            Route("/ignore", self.ignore, methods=post),
            Route("/wrong", self.wrong, methods=post),
            Route("/forget", self.forget, methods=post),
            Route("/rename", self.rename, methods=post),
            Route("/merge", self.merge, methods=post),
            Route("/undo", self.undo, methods=post),
            Route("/history", self.history),
            Route("/memory", self.export_memory, methods=["GET"]),
            Route("/memory", self.import_memory, methods=post),
            Route("/backbone", self.backbone, methods=post),
            Route("/events", self.events),
            WebSocketRoute("/events", self.live_events),
        ]

    async def health(self, request: Request) -> Response:
        report = self._live.health()
        return JSONResponse(report, 200 if report["hearing"] else 503)

    async def metrics(self, request: Request) -> Response:
        return Response(self._live.metrics_page(), headers={"content-type": CONTENT_TYPE})

    async def classes(self, request: Request) -> Response:
        return await self._answer(self._live.classes)

    async def history(self, request: Request) -> Response:
        return await self._answer(self._live.history)

    async def events(self, request: Request) -> Response:
        return await self._answer(self._live.events)

    async def undo(self, request: Request) -> Response:
        (await self._fields(request)).done()
        return await self._answer(self._live.undo)

    async def enable(self, request: Request) -> Response:
        fields = await self._fields(request)
        label, enabled = fields.text("label"), fields.flag("enabled")
        fields.done()
        return await self._answer(lambda: self._live.enable(label, enabled))

    async def rename(self, request: Request) -> Response:
        fields = await self._fields(request)
        old, new = fields.text("old"), fields.text("new")
        fields.done()
        return await self._answer(lambda: self._live.rename(old, new))

    async def merge(self, request: Request) -> Response:
        fields = await self._fields(request)
        label, into = fields.text("label"), fields.text("into")
        fields.done()
        return await self._answer(lambda: self._live.merge_classes(label, into))

    async def forget(self, request: Request) -> Response:
        fields = await self._fields(request)
        purge = fields.flag("purge", default=False)
        name = "record" if fields.has("record") else "label"
        value = fields.text(name)
        fields.done()
        act = self._live.forget_record if name == "record" else self._live.forget
        return await self._answer(lambda: act(value, purge=purge))

    async def wrong(self, request: Request) -> Response:
        fields = await self._fields(request)
        event_id = fields.optional_text("event")
        fields.done()
        return await self._answer(lambda: self._live.wrong(event_id))

    async def backbone(self, request: Request) -> Response:
        fields = await self._fields(request)
        path = fields.text("path")
        fields.done()
        return await self._answer(lambda: self._live.use_backbone(path))

    async def teach(self, request: Request) -> Response:
        if _is_audio(request):
            label = request.query_params.get("label", "")
            example = await self._uploaded(request, background=False)
            return await self._answer(lambda: self._live.teach(label, [example]))
        fields = await self._fields(request)
        label = fields.text("label")
        return await self._learn(
            fields,
            from_examples=lambda examples: self._live.teach(label, examples),
            from_span=lambda start, end: self._live.teach_span(label, start, end),
        )

    async def ignore(self, request: Request) -> Response:
        if _is_audio(request):
            example = await self._uploaded(request, background=True)
            return await self._answer(lambda: self._live.ignore([example]))
        return await self._learn(
            await self._fields(request), from_examples=self._live.ignore, from_span=self._live.ignore_span
        )

    async def _learn(
        self,
        fields: Fields,
        *,
        from_examples: Callable[[list[Example]], Mapping[str, Any]],
        from_span: Callable[[int, int], Mapping[str, Any]],
    ) -> Response:
        """Learn from embedded examples, from the last ``seconds``, or from the next ``record`` seconds."""
        if fields.has("examples"):
            values = fields.objects("examples")
            fields.done()
            examples = self._examples(values)
            return await self._answer(lambda: from_examples(examples))
        ahead = fields.has("record")
        seconds = fields.seconds("record" if ahead else "seconds", max_seconds=self._live.recent_seconds)
        fields.done()
        n_samples = round(seconds * self._live.space.sample_rate)
        if not ahead:
            return await self._answer(lambda: from_span(self._live.heard_until - n_samples, self._live.heard_until))
        start = self._live.heard_until
        await self._live.wait_until_heard(start + n_samples)
        return await self._answer(lambda: from_span(start, start + n_samples))

    def _examples(self, values: Sequence[Mapping[str, Any]]) -> list[Example]:
        ear = self._live.ear
        twin = ear.twin
        return [example_from_json(value, ear.space, None if twin is None else twin.space) for value in values]

    async def export_memory(self, request: Request) -> Response:
        data = await self._on_loop(self._live.export_memory)
        return Response(data, headers={"content-type": MEMORY_TYPE})

    async def import_memory(self, request: Request) -> Response:
        data = await self._body(request, self._settings.max_memory_bytes)
        return await self._answer(lambda: self._live.import_memory(data))

    async def live_events(self, socket: WebSocket) -> None:
        """Send every event as JSON text. A reader that falls behind misses events, which are counted."""
        offered = socket.scope.get("subprotocols", [])
        await socket.accept(subprotocol=EVENTS_SUBPROTOCOL if EVENTS_SUBPROTOCOL in offered else None)
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[Event] = asyncio.Queue(self._settings.max_waiting_events)

        def take(event: Event) -> None:
            if waiting.full():
                waiting.get_nowait()
                self._live.count_unsent()
            waiting.put_nowait(event)

        async def send() -> None:
            while True:
                await socket.send_json(event_object(await waiting.get(), self._live.space.sample_rate))

        unsubscribe = self._live.feed.subscribe(lambda event: loop.call_soon_threadsafe(take, event))
        sender = asyncio.create_task(send())
        try:
            while True:
                await socket.receive_text()
        except (WebSocketDisconnect, KeyError):
            pass
        finally:
            unsubscribe()
            sender.cancel()

    async def _uploaded(self, request: Request, *, background: bool) -> Example:
        data = await self._body(request, self._settings.max_audio_bytes)
        async with self._one_upload:
            return await asyncio.to_thread(self._embed_upload, data, background)

    def _embed_upload(self, data: bytes, background: bool) -> Example:
        with tempfile.TemporaryDirectory(prefix="soundkeep-") as folder:
            path = Path(folder, "upload")
            path.write_bytes(data)
            try:
                ear = self._live.ear
                example = example_of_file(path, ear.worn.embedder, background=background, twin=ear.twin)
            except AudioError as error:
                raise type(error)(str(error).replace(str(path), "the uploaded audio")) from error
        return replace(example, provenance={**example.provenance, "file": "upload"}, samples=None)

    async def _answer(self, work: Callable[[], Any]) -> Response:
        return JSONResponse(await self._on_loop(work))

    async def _on_loop(self, work: Callable[[], _T]) -> _T:
        return await asyncio.wrap_future(self._live.call(work))

    async def _fields(self, request: Request) -> Fields:
        return Fields(await self._body(request, self._settings.max_json_bytes))

    async def _body(self, request: Request, max_bytes: int) -> bytes:
        return await read_body(request.stream(), request.headers.get("content-length"), max_bytes=max_bytes)


def _is_audio(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith("audio/")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, SoundkeepError)
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 422)
    return _refusal(status, str(error), type(error).__name__, error.exit_code)


async def _not_here(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = f"{request.method} {request.url.path[:80]} is not part of this API; see docs/api.md for what is"
    return _refusal(error.status_code, sentence, "MisuseError", 2)


async def _broken(request: Request, error: Exception) -> Response:
    return _refusal(500, f"the listener failed at this request ({type(error).__name__}); see its log", "ApiError", 1)


def _refusal(status: int, sentence: str, kind: str, exit_code: int) -> Response:
    return JSONResponse({"error": sentence, "kind": kind, "exit_code": exit_code}, status)
