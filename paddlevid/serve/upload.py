"""Uploads: the body of a request -> a file on the disk, of no more bytes than are allowed."""

import asyncio
import contextlib
import errno
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from paddlevid.data.decode import VIDEO_SUFFIXES
from paddlevid.serve.refusal import Refusal

_HEADERS_LIMIT = 1 << 14  # bytes of the headers of all parts
_AROUND_LIMIT = 1 << 16  # bytes of a body that are not the file's
_LINGER = 3  # seconds in which the rest of a refused body is thrown away


@contextlib.asynccontextmanager
async def received_file(
    request: Request, folder: Path, limit: int, timeout: float
) -> AsyncIterator[tuple[Path, str]]:
    """The file of a form (multipart/form-data), and the name that it had; it is removed afterwards.

    Args:
        folder: where it is written.
        limit: bytes that it may have.
        timeout: seconds that it may take.

    Raises Refusal where there is no such file, or it is too large or too slow.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise Refusal(
            415, "refused",
            "send the video as a form (multipart/form-data, as curl -F file=@VIDEO does), or a "
            'path as JSON (application/json: {"path": "..."})',
        )  # fmt: skip
    part = _FilePart(boundary, limit)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # systems clear their /tmp
    handle, name = tempfile.mkstemp(prefix="upload_", dir=folder)
    os.close(handle)
    path = Path(name)
    try:
        try:
            length = int(request.headers.get("content-length", 0))
            if length > limit + _AROUND_LIMIT:
                raise part.too_large()
            await asyncio.wait_for(_receive(request, part, path), timeout)
        except asyncio.TimeoutError as error:
            reason = f"the upload was not complete within {timeout:g} s"
            raise Refusal(408, "late", reason) from error
        except Refusal:
            path.unlink()
            if "expect" not in request.headers:
                await _linger(request)
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            reason = "there is no room for uploads on the disk of the service"
            raise Refusal(507, "failed", reason) from error
        suffix = Path(part.name).suffix.lower()
        if suffix in VIDEO_SUFFIXES:  # a decoder looks at it where the content is not clear
            path = path.rename(path.with_suffix(suffix))
        yield path, part.name
    finally:
        path.unlink(missing_ok=True)


async def _receive(request: Request, part: "_FilePart", path: Path) -> None:
    with open(path, "wb") as file:
        async for piece in request.stream():
            if content := part.feed(piece):
                await asyncio.to_thread(file.write, content)
    part.check_complete()


async def _linger(request: Request) -> None:
    """Let a client that sends before it listens get to the answer, instead of a broken line."""

    async def pass_over() -> None:
        async for _ in request.stream():
            pass

    with contextlib.suppress(asyncio.TimeoutError, ClientDisconnect, RuntimeError):
        await asyncio.wait_for(pass_over(), _LINGER)


class _FilePart:
    """Finds the one file in the pieces of a form; other fields are passed over."""

    def __init__(self, boundary: bytes, limit: int) -> None:
        self.name = ""
        self._limit, self._size, self._around = limit, 0, 0
        self._num_files = 0
        self._is_file = self._is_complete = False
        self._field, self._value = b"", b""
        self._disposition, self._header_bytes = b"", 0
        self._content: list[bytes] = []
        callbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._add_to_field,
            "on_header_value": self._add_to_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_content,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise Refusal(400, "refused", f"the form cannot be read: {error}") from error

    def feed(self, piece: bytes) -> bytes:
        """What the piece has of the file."""
        self._content.clear()
        before = self._size
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise Refusal(400, "refused", f"the form cannot be read: {error}") from error
        self._around += len(piece) - (self._size - before)
        if self._size > self._limit or self._around > _AROUND_LIMIT:
            raise self.too_large()
        return b"".join(self._content)

    def check_complete(self) -> None:
        """Refusal where the form ended early, or had no file."""
        if not self._is_complete:
            raise Refusal(400, "broken", "the form is not complete: its end is missing")
        if not self._num_files:
            raise Refusal(400, "broken", "the form has no file: choose a video")
        if not self._size:
            raise Refusal(400, "broken", f"{self.name}: the file is empty")

    def too_large(self) -> Refusal:
        """For a file, or a form around it, that is."""
        return Refusal(
            413, "too_large", f"the upload is larger than the limit of {self._limit / 1e6:g} MB"
        )

    def _begin(self) -> None:
        self._disposition, self._is_file = b"", False

    def _add_to_field(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._field += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._value += data[start:end]

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _HEADERS_LIMIT:
            raise Refusal(400, "refused", "the form cannot be read: its headers are too long")

    def _end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field, self._value = b"", b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if not (name := options.get(b"filename")):  # empty: a form in which no file was chosen
            return
        if self._num_files:
            raise Refusal(400, "refused", "the form has several files: send one at a time")
        self._is_file, self._num_files = True, 1
        self.name = name.decode("utf-8", "replace")

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._size += end - start
            self._content.append(data[start:end])

    def _end(self) -> None:
        self._is_complete = True
