"""The HTTP of the server: bodies read under a limit and a deadline, signatures, routes, refusals as one sentence.

Nothing here decides anything: requests become calls, and their values and refusals become answers.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response

from edge import __version__
from edge.errors import SoundkeepError
from trainer.server.auth import Authority, Request
from trainer.server.database import reading
from trainer.server.enrolment import enrol
from trainer.server.limits import CHUNK_BYTES
from trainer.server.opening import Server
from trainer.server.polling import poll
from trainer.server.refusals import Refused
from trainer.server.status_page import status_page
from trainer.server.status_visitors import VisitorRules
from trainer.server.uploads import Progress, begin_upload, continue_upload, upload_offset

MAX_JSON_BYTES = 64 * 1024
BODY_SECONDS = 60.0
_RETRY_SECONDS = 5
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")
_NUMBER = re.compile(r"[0-9]{1,15}\Z")
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_log = logging.getLogger("soundkeep.server")

Answer = Callable[[HttpRequest, Request, str], Response]
Endpoint = Callable[[HttpRequest], Awaitable[Response]]


def make_app(server: Server, *, behind_proxy: bool = False, body_seconds: float = BODY_SECONDS) -> FastAPI:
    """Return the application.

    behind_proxy: every visitor seems to come from this machine, so none is trusted for that. body_seconds: the time in
    which a body has to arrive.
    """
    app = FastAPI(title="soundkeep", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    authority = Authority(server)
    visitors = VisitorRules(server.data_dir, behind_proxy=behind_proxy)

    async def body_of(request: HttpRequest, max_bytes: int) -> Request:
        try:
            body = await asyncio.wait_for(read_body(request, max_bytes), body_seconds)
        except asyncio.TimeoutError:
            raise Refused(408, "too-slow", f"the body did not arrive within {body_seconds:g} seconds") from None
        return Request(request.method, target_of(request), request.headers, body)

    def signed(answer: Answer, max_bytes: int) -> Endpoint:
        def work(http: HttpRequest, request: Request) -> Response:
            return answer(http, request, authority.device(request))

        async def endpoint(request: HttpRequest) -> Response:
            return await run_in_threadpool(work, request, await body_of(request, max_bytes))

        return endpoint

    async def enrolling(request: HttpRequest) -> Response:
        return JSONResponse(await run_in_threadpool(enrol, server, await body_of(request, MAX_JSON_BYTES)), 201)

    def polled(_: HttpRequest, request: Request, device: str) -> Response:
        return JSONResponse(poll(server, device, request.body))

    def begun(http: HttpRequest, request: Request, device: str) -> Response:
        asked = http.query_params
        size = _number(asked.get("size"))
        return _progress(
            begin_upload(server, device, asked.get("kind", ""), asked.get("sha256", ""), size, request.body)
        )

    def continued(http: HttpRequest, request: Request, device: str) -> Response:
        offset = _number(http.query_params.get("offset"))
        return _progress(continue_upload(server, device, _upload_name(http), offset, request.body))

    def asked_offset(http: HttpRequest, _: Request, device: str) -> Response:
        offset = upload_offset(server, device, _upload_name(http))
        if offset is None:
            raise Refused(404, "not-found", "nothing of this upload is here")
        return Response(status_code=200, headers={"upload-offset": str(offset)})

    def bundle_file(folder: str) -> Answer:
        def answer(http: HttpRequest, _: Request, device: str) -> Response:
            return _file(server.data_dir / "repository" / folder, http.path_params["name"])

        return answer

    async def health(request: HttpRequest) -> Response:
        def look() -> dict[str, Any]:
            with reading(server.engine) as session:
                session.connection()
            return {"status": "ok", "version": __version__, "time": int(server.clock())}

        return JSONResponse(await run_in_threadpool(look))

    async def front(request: HttpRequest) -> Response:
        refused = visitors.refusal(request.client.host if request.client else None, request.headers)
        if refused is not None:
            return refused
        page = await run_in_threadpool(status_page, server)
        return HTMLResponse(page, headers=PAGE_HEADERS)

    for method, path, endpoint in (
        ("POST", "/v1/enrol", enrolling),
        ("POST", "/v1/poll", signed(polled, MAX_JSON_BYTES)),
        ("POST", "/v1/uploads", signed(begun, CHUNK_BYTES)),
        ("PATCH", "/v1/uploads/{sha256}", signed(continued, CHUNK_BYTES)),
        ("HEAD", "/v1/uploads/{sha256}", signed(asked_offset, 0)),
        ("GET", "/v1/bundles/metadata/{name}", signed(bundle_file("metadata"), 0)),
        ("GET", "/v1/bundles/targets/{name}", signed(bundle_file("targets"), 0)),
        ("GET", "/v1/health", health),
        ("GET", "/", front),
    ):
        app.router.add_route(path, endpoint, methods=[method], include_in_schema=False)
    _answer_errors(app)
    return app


PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


async def read_body(request: HttpRequest, max_bytes: int) -> bytes:
    """Read a body of at most ``max_bytes``, whatever its headers claim. Raises Refused 413 and 408."""
    too_large = Refused(413, "too-large", f"the body has more than {max_bytes} bytes")
    claimed = request.headers.get("content-length", "0")
    if not _NUMBER.match(claimed) or int(claimed) > max_bytes:
        raise too_large
    pieces, n_bytes = [], 0
    try:
        async for piece in request.stream():
            n_bytes += len(piece)
            if n_bytes > max_bytes:
                raise too_large
            pieces.append(piece)
    except ClientDisconnect:
        raise Refused(408, "too-slow", "the connection ended within the body") from None
    return b"".join(pieces)


def target_of(request: HttpRequest) -> str:
    """Return path and query as they were sent, which is what is signed. Raises Refused 422."""
    raw, query = request.scope["raw_path"], request.scope["query_string"]
    try:
        target: str = (raw + (b"?" + query if query else b"")).decode("ascii")
    except UnicodeDecodeError:
        raise Refused(422, "refused", "the target of the request is not percent-encoded") from None
    return target


def _number(text: str | None) -> int:
    if text is None or not _NUMBER.match(text):
        raise Refused(422, "refused", "size and offset are whole numbers in the query of the request")
    return int(text)


def _upload_name(http: HttpRequest) -> str:
    name: str = http.path_params["sha256"]
    if not _HEX_SHA256.match(name):  # PostgreSQL cannot even be asked for a name with a NUL
        raise Refused(404, "not-found", "an upload is called by its SHA-256 in hex")
    return name


def _progress(progress: Progress) -> Response:
    outcome = progress.outcome
    if outcome is None:
        return JSONResponse({"offset": progress.offset}, 202)
    if outcome["result"] == "rejected":
        return JSONResponse({"error": outcome["reason"], "kind": "refused", "outcome": outcome}, 422)
    return JSONResponse({"outcome": outcome})


def _file(folder: Path, name: str) -> Response:
    path = folder / name
    if not _FILE_NAME.match(name) or path.is_symlink() or not path.is_file():
        raise Refused(404, "not-found", f"the repository of bundles has no file {name[:80]!a}")
    return FileResponse(path, media_type="application/octet-stream")


def _answer_errors(app: FastAPI) -> None:
    async def refused(request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return JSONResponse(error.body, error.status, error.headers)

    async def by_router(request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": str(error.detail), "kind": "not-found"}, error.status_code, error.headers)

    async def unavailable(request: HttpRequest, error: Exception) -> Response:
        _log.warning("%s %.200a: %s", request.method, request.url.path, str(error).partition("\n")[0])
        return JSONResponse(
            {"error": "the server cannot reach its database or its disk at present; try again", "kind": "unavailable"},
            503,
            {"retry-after": str(_RETRY_SECONDS)},
        )

    async def broken(request: HttpRequest, error: Exception) -> Response:
        return JSONResponse({"error": "the server failed; its log says how", "kind": "internal"}, 500)

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(HTTPException, by_router)
    for kind in (SQLAlchemyError, OSError, SoundkeepError):
        app.add_exception_handler(kind, unavailable)
    app.add_exception_handler(Exception, broken)
