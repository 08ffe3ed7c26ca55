"""How a page reaches its session: a server on this machine alone, for whoever has the address."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from marey.configs.errors import MareyError
from marey.pipeline.explore.session import Session

HERE = Path(__file__).parent
HOST = "127.0.0.1"
LARGEST = 32 * 2**20
"""Bytes of an image that is searched for."""
FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    "points.js": ("points.js", "text/javascript; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
}
"""What the page is made of. No other file of this machine is ever read by its name."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; media-src blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered with."""

    content: bytes
    kind: str
    headers: tuple[tuple[str, str], ...] = ()


class Server(ThreadingHTTPServer):
    """Serves one session until it is closed."""

    daemon_threads = True

    def __init__(self, session: Session, port: int = 0) -> None:
        """port: 0 takes a free one. Raises OSError where it is taken."""
        super().__init__((HOST, port), _Handler)
        self.session = session
        self.token = secrets.token_urlsafe(24)

    @property
    def address(self) -> str:
        """What is typed in a browser of this machine; without its secret nothing is answered."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    @property
    def hosts(self) -> tuple[str, str]:
        """Names under which a browser reaches this server. Another name is an attempt to have a
        foreign page read from it (DNS rebinding)."""
        return f"{HOST}:{self.server_port}", f"localhost:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is no fault."""


class _Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "marey", ""
    timeout = 60

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not printed: the address holds the secret."""

    def do_GET(self) -> None:
        """Anything but a search for an image."""
        self._answer(self._found)

    def do_POST(self) -> None:
        """A search for an image: its file is the body."""
        self._answer(self._searched)

    def _answer(self, make: Callable[[str, dict[str, str]], Answer | None]) -> None:
        if self.headers.get("Host") not in self.server.hosts:
            return self._send(HTTPStatus.FORBIDDEN, _said("this name is not of this page"))
        parts = urlsplit(self.path)
        _, token, *rest = parts.path.split("/")
        if not rest or not secrets.compare_digest(token.encode(), self.server.token.encode()):
            return self._send(HTTPStatus.NOT_FOUND, _said("no such page"))
        given = {name: values[0] for name, values in parse_qs(parts.query).items()}
        try:
            answer = make("/".join(rest), given)
        except (MareyError, LookupError, ValueError) as error:
            return self._send(HTTPStatus.BAD_REQUEST, _said(str(error)))
        if answer is None:
            return self._send(HTTPStatus.NOT_FOUND, _said("no such page"))
        return self._send(HTTPStatus.OK, answer)

    def _found(self, name: str, given: dict[str, str]) -> Answer | None:
        if name in FILES:
            file, kind = FILES[name]
            return Answer((HERE / file).read_bytes(), kind)
        return _asked(self.server.session, name, given)

    def _searched(self, name: str, given: dict[str, str]) -> Answer | None:
        origin = self.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc not in self.server.hosts:
            raise ValueError("only this page may search")
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= LARGEST:
            self.close_connection = True
            raise ValueError(f"an image of 1 to {LARGEST} bytes is needed, this has {length}")
        if name != "like":
            self.close_connection = True
            return None
        return _json(self.server.session.like_image(self.rfile.read(length)))

    def _send(self, status: HTTPStatus, answer: Answer) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", answer.kind),
            ("Content-Length", str(len(answer.content))),
            ("Cache-Control", "no-store"),
            *HEADERS.items(),
            *answer.headers,
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.content)


def _asked(session: Session, name: str, given: dict[str, str]) -> Answer | None:
    """The answer to a question of the page; None for one that it never asks."""
    if name == "about":
        return _json(session.about())
    if name == "points":
        return _bytes(session.sides[_number(given["side"])].points.astype("<f4").tobytes())
    if name == "column":
        values = session.columns[_number(given["number"])].values
        return _bytes(values.astype(values.dtype.newbyteorder("<")).tobytes())
    if name == "row":
        return _json(session.row(_number(given["row"])))
    if name == "frame":
        return Answer(session.frame(_number(given["row"])), "image/jpeg")
    if name == "clip":
        content, at_s = session.clip(_number(given["row"]))
        return Answer(content, "video/mp4", (("X-Moment", f"{at_s:.3f}"),))
    if name == "near":
        return _json(session.near(_number(given["row"])))
    if name == "between":
        return _json(session.between(given["event"], given["first"], given["second"]))
    return None


def _number(text: str) -> int:
    """A number from 0. Raises ValueError for anything else, negative ones among it."""
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise ValueError(f"{text[:20]!r} is no number")
    return int(text)


def _json(value: Any) -> Answer:
    return Answer(json.dumps(value).encode(), "application/json")


def _bytes(content: bytes) -> Answer:
    return Answer(content, "application/octet-stream")


def _said(text: str) -> Answer:
    return _json({"error": text})
