"""The HTTP side: requests -> JSON, metrics and the page."""

import asyncio
import base64
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from paddlevid.data.decode import VIDEO_SUFFIXES, is_video
from paddlevid.serve.refusal import Refusal
from paddlevid.serve.service import Service
from paddlevid.serve.upload import received_file

_PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
_JSON_LIMIT = 1 << 16  # bytes


def create_app(
    service: Service,
    folder: Path,
    *,
    max_upload: int,
    path_root: Path | None = None,
    hosts: tuple[str, ...] = (),
) -> Starlette:
    """The pages of a service.

    Args:
        folder: for uploads while they are predicted.
        max_upload: bytes.
        path_root: folder whose videos may be asked for by path; None: none may.
        hosts: names by which the service may be called, without brackets and port; others are
            refused, so that no page of the web can reach it by a name of its own that leads to this
            machine. (): any may.
    """
    root = path_root.resolve() if path_root else None

    async def predict(request: Request) -> Response:
        outcome = "failed"
        try:
            if request.headers.get("sec-fetch-site") == "cross-site":  # which a browser says
                raise Refusal(403, "refused", "pages of other sites may not send videos")
            top_k = _read_top_k(request)
            with service.admit():
                async with _clip(request) as (path, name):
                    start = time.monotonic()
                    try:
                        answer = await service.answer(path)
                    except Refusal as refusal:
                        reason = refusal.reason.replace(str(path), _short(name))
                        raise Refusal(refusal.status, refusal.outcome, reason) from refusal
            best = (-answer.probabilities).argsort(kind="stable")[:top_k]
            reply = {
                "classes": [service.classes[i] for i in best],
                "probabilities": [round(float(answer.probabilities[i]), 6) for i in best],
                "frames": answer.num_frames,
                "seconds": round(time.monotonic() - start, 4),
            }
            outcome = "answered"
            return JSONResponse(reply)
        except Refusal as refusal:
            outcome = refusal.outcome
            raise
        except ClientDisconnect:
            outcome = "gone"
            return Response(status_code=400)  # nobody reads it
        finally:
            service.metrics.requests.labels(outcome).inc()

    def _clip(request: Request) -> AbstractAsyncContextManager[tuple[Path, str]]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            return _named_file(request, root, service.timeout)
        return received_file(request, folder, max_upload, service.timeout)

    async def health(_: Request) -> Response:
        status = {
            "status": "ready" if service.is_ready else "loading",
            "network": service.name,
            "classes": len(service.classes),
            "max_upload_mb": max_upload / 1e6,
        }
        return JSONResponse(status, 200 if service.is_ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    async def page(_: Request) -> Response:
        return HTMLResponse(_PAGE)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/predict", predict, methods=["POST"]),
            Route("/healthz", health),
            Route("/metrics", metrics),
        ],
        middleware=[Middleware(_KnownHosts, hosts=hosts)] if hosts else [],
        exception_handlers={Refusal: _refuse, HTTPException: _refuse_http, Exception: _fail},
    )


class _KnownHosts:
    """Refuses requests that call the service by another name than one of `hosts`."""

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = Request(scope).headers.get("host", "")
        try:
            is_known = urlsplit(f"//{given}").hostname in self.hosts
        except ValueError:  # brackets without an address
            is_known = False
        needs = f"the service answers to {', '.join(self.hosts)}"
        answer = self.app if is_known else _error(400, f"Host: {_short(given)}: {needs}")
        await answer(scope, receive, send)


def headers() -> list[tuple[str, str]]:
    """What every answer says: that a browser shall run and load nothing but the page's own."""
    return [
        (
            "Content-Security-Policy",
            f"default-src 'none'; script-src {_hash_of('script')}; style-src {_hash_of('style')}; "
            "connect-src 'self'; media-src blob:; img-src data:; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'",
        ),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
    ]


def _hash_of(element: str) -> str:
    """Of the page's script or style, as a Content-Security-Policy names it."""
    (text,) = re.findall(rf"<{element}>(.*?)</{element}>", _PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _short(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:100]}...{name[-90:]}"


def _read_top_k(request: Request) -> int:
    text = request.query_params.get("top_k", "5")
    if not (text.isdecimal() and text.isascii() and len(text) < 10 and int(text) > 0):
        raise Refusal(422, "refused", f"top_k = {_short(text)!r}: needs a whole number from 1 up")
    return int(text)


@asynccontextmanager
async def _named_file(
    request: Request, root: Path | None, timeout: float
) -> AsyncIterator[tuple[Path, str]]:
    """The video that a body {"path": ...} names, and that name; Refusal where it is not given."""
    try:
        body = await asyncio.wait_for(_read_body(request), timeout)
        path = json.loads(body)["path"]
        if not isinstance(path, str):
            raise TypeError
    except asyncio.TimeoutError as error:
        reason = f"the request was not complete within {timeout:g} s"
        raise Refusal(408, "late", reason) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Refusal(422, "refused", 'needs JSON of the form {"path": "VIDEO"}') from error
    if root is None:
        reason = "paths are refused: the service was started without --path-root; send the file"
        raise Refusal(403, "refused", reason)
    try:
        found = (root / path).resolve()  # without links
        is_inside, is_file = found.is_relative_to(root), found.is_file()
    except (ValueError, OSError, RuntimeError) as error:  # null bytes, too long, links in a circle
        raise Refusal(400, "broken", f"{_short(path)!r} is no path") from error
    if not is_inside:
        reason = f"{_short(path)!r} is outside the folder of videos that the service may read"
        raise Refusal(403, "refused", reason)
    if not is_file:
        raise Refusal(404, "broken", f"there is no file {_short(path)!r}")
    if not is_video(found):
        needs = f"needs one of {' '.join(VIDEO_SUFFIXES)}"
        raise Refusal(400, "broken", f"{_short(path)!r} is not named as a video: {needs}")
    yield found, path


async def _read_body(request: Request) -> bytes:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _JSON_LIMIT:
            raise Refusal(413, "too_large", f"JSON of more than {_JSON_LIMIT} bytes")
    return body


async def _refuse(_: Request, refusal: Refusal) -> Response:
    busy = {"Retry-After": "1"} if refusal.status == 503 else None
    return _error(refusal.status, refusal.reason, busy)


async def _refuse_http(_: Request, error: HTTPException) -> Response:
    return _error(error.status_code, error.detail, error.headers)


async def _fail(_: Request, error: Exception) -> Response:
    return _error(500, "the service failed; its log says why")


def _error(status: int, reason: str, more: dict[str, str] | None = None) -> Response:
    # what UTF-8 cannot hold, as in names from another encoding, is written with backslashes
    text = reason.encode("utf-8", "backslashreplace").decode()
    return JSONResponse({"error": text}, status, headers=more)
