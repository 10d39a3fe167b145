"""An HTTP proxy that does harm: requests for an object store enter, and some of them, or their answers, arrive badly.

It stands between a client and a server of the tests, reads each request as a whole, and asks a function what to do with
it. So the same faults hit every server, where and as often as a test wants.
"""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal[
    "internal error",  # 500, the server never sees the request
    "slow down",  # 503
    "expired",  # 400: the session token has expired
    "skewed",  # 403: clocks differ
    "no such request",  # 501
    "no upload",  # 404: the large object is not in the making
    "html",  # 200, a page of something else
    "hang",  # no answer until the client goes away
    "reset before",  # the connection breaks off before the request is read
    "reset in request",  # ... after half of the request has reached the server
    "lost answer",  # ... after the server has done it
    "reset in answer",  # ... in the middle of the answer's body
    "torn request",  # the last byte of the request's body arrives changed
    "torn answer",  # one of the answer's body
]

ERRORS: dict[str, tuple[str, str]] = {
    "internal error": ("500 Internal Server Error", "InternalError"),
    "slow down": ("503 Service Unavailable", "SlowDown"),
    "expired": ("400 Bad Request", "ExpiredToken"),
    "no upload": ("404 Not Found", "NoSuchUpload"),
    "no such request": ("501 Not Implemented", "NotImplemented"),
    "skewed": ("403 Forbidden", "RequestTimeTooSkewed"),
}


@dataclass(frozen=True)
class Request:
    """What a client asked.

    Attributes:
        method: Such as ``PUT``.
        target: Path and query, as they were sent.
        fields: Values of the head by lower-case name.
        body: The body.
    """

    method: str
    target: str
    fields: dict[bytes, bytes]
    body: bytes


class FaultyProxy:
    """A proxy in a thread of its own; a context manager.

    Args:
        server: Address of the server behind it.
        choose: Says what to do with a request; none passes it on. May be changed at any time.
    """

    def __init__(self, server: str, choose: Callable[[Request], Fault | None] = lambda _: None) -> None:
        parts = urlsplit(server)
        assert parts.hostname is not None
        self._behind = (parts.hostname, parts.port)
        self.choose = choose
        self.seen: list[Request] = []
        self.done: Counter[str] = Counter()
        self.address = ""
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()

    def __enter__(self) -> "FaultyProxy":
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve(ready)), daemon=True)
        self._thread.start()
        ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=2**20)
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await self._stopped.wait()
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answered(reader, writer):
                pass
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass  # the client, or the server, went away, or the test is over
        finally:
            with contextlib.suppress(OSError):
                writer.transport.abort()  # a reset, as from a machine that fails

    async def _answered(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Handle one request; return whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        fields = _fields(head)
        if fields.get(b"expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await writer.drain()
        body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        request = Request(method, target, fields, body)
        fault = self.choose(request)
        self.seen.append(request)
        self.done[fault or "passed on"] += 1
        if fault == "reset before":
            return False
        if fault == "hang":
            await reader.read()  # returns when the client gives up
            return False
        if fault == "html":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n<html>Welcome!")
            await writer.drain()
            return True
        if fault in ERRORS:
            status, word = ERRORS[fault]
            text = b"" if method == "HEAD" else f"<Error><Code>{word}</Code><Message>so</Message></Error>".encode()
            size = f"Content-Length: {len(text)}\r\n\r\n".encode()
            writer.write(f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\n".encode() + size + text)
            await writer.drain()
            return True
        if fault == "torn request" and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        answer = await self._asked(head, body[: len(body) // 2] if fault == "reset in request" else body, fault)
        if answer is None or fault == "lost answer":
            return False
        above, below = answer
        if fault == "reset in answer":
            writer.write(above + below[: len(below) // 2])
            await writer.drain()
            writer.close()  # an orderly end: what was sent arrives
            await writer.wait_closed()
            return False
        if fault == "torn answer" and below:
            below = below[:-1] + bytes([below[-1] ^ 1])
        writer.write(above + below)
        await writer.drain()
        return _fields(above).get(b"connection", b"").lower() != b"close"

    async def _asked(self, head: bytes, body: bytes, fault: str | None) -> tuple[bytes, bytes] | None:
        """Return head and body of the server's answer; none if the request was broken off."""
        reader, writer = await asyncio.open_connection(*self._behind, limit=2**20)
        try:
            lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"expect:", b"connection:"))]
            lines.insert(1, b"Connection: close")
            writer.write(b"\r\n".join(lines) + body)
            await writer.drain()
            if fault == "reset in request":
                return None
            above = await reader.readuntil(b"\r\n\r\n")
            fields = _fields(above)
            method = head.split(b" ", 1)[0]
            if method == b"HEAD" or above.startswith((b"HTTP/1.1 204", b"HTTP/1.1 304")):
                below = b""
            elif b"content-length" in fields:
                below = await reader.readexactly(int(fields[b"content-length"]))
            else:
                below = await reader.read()
        finally:
            writer.transport.abort()
        return above, below


def _fields(head: bytes) -> dict[bytes, bytes]:
    pairs = (line.partition(b":") for line in head.split(b"\r\n")[1:] if b":" in line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
