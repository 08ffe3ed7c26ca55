"""An object store for tests: a folder behind `s3://`, served over HTTP, that fails as it is told.

It knows what pyarrow's S3 client asks for: HEAD and ranged GET, listings, PUT and DELETE.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

Fails = Callable[[str, str], str]
"""Told method and key of a request: "" serves it, a status refuses it, "cut" breaks off its answer.
pyarrow's client tries again by itself after "503", for seconds, and not after "423"."""


class FaultyStore:
    """A server of one folder; its first level of folders are the buckets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fails: Fails = lambda method, key: ""
        self.requests: list[tuple[str, str, int]] = []
        """(method, key, bytes of the answer) of each request."""
        store = self

        class Handler(_Handler):
            served = store

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def uri(self, path: str) -> str:
        """The URI of `bucket/key`."""
        port = self._server.server_address[1]
        return f"s3://{path}?scheme=http&endpoint_override=127.0.0.1:{port}"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: FaultyStore
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _go(self) -> None:
        parts = urlsplit(self.path)
        key = unquote(parts.path).strip("/")
        body = self._body()
        how = self.served.fails(self.command, key)
        if how.isdecimal():
            self.served.requests.append((self.command, key, 0))
            self._answer(int(how), b"<Error><Code>SlowDown</Code></Error>")
            return
        path = self.served.folder / key
        if self.command == "PUT":
            path.parent.mkdir(parents=True, exist_ok=True)
            if not parts.path.endswith("/"):
                path.write_bytes(_unchunked(body, self.headers))
            self._answer(200, ETag='"x"')
        elif self.command == "DELETE":
            path.unlink(missing_ok=True)
            self._answer(204)
        elif self.command == "POST":
            self._answer(200, b"<DeleteResult></DeleteResult>")
        elif "list-type" in parts.query:
            self._list(key, parse_qs(parts.query, keep_blank_values=True))
        elif path.is_file():
            self._give(path, key, how)
        else:
            self.served.requests.append((self.command, key, 0))
            self._answer(200 if "/" not in key and path.is_dir() else 404)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = _go

    def _give(self, path: Path, key: str, how: str) -> None:
        content = path.read_bytes()
        whole, status = len(content), 200
        headers = {"Last_Modified": "Mon, 01 Jan 2024 00:00:00 GMT", "ETag": '"x"'}
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            stop = min(int(last or whole - 1), whole - 1)
            content, status = content[int(first) : stop + 1], 206
            headers["Content_Range"] = f"bytes {first}-{stop}/{whole}"
        sent = 0 if self.command == "HEAD" else len(content)
        self.served.requests.append((self.command, key, sent))
        headers["Content_Length"] = str(len(content))
        if how == "cut":
            self._answer(status, content[: len(content) // 2], **headers)
            self.close_connection = True
            self.connection.close()
            return
        self._answer(status, content, **headers)

    def _list(self, bucket: str, query: dict[str, list[str]]) -> None:
        prefix = query.get("prefix", [""])[0]
        flat = not query.get("delimiter")
        base = self.served.folder / bucket
        files, folders = [], set()
        for path in sorted(p for p in base.rglob("*") if p.is_file()):
            name = path.relative_to(base).as_posix()
            if name.startswith(prefix):
                rest = name[len(prefix) :]
                if "/" in rest and not flat:
                    folders.add(prefix + rest.partition("/")[0] + "/")
                else:
                    files.append((name, path.stat().st_size))
        body = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{size}</Size>"
            "<LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
            for name, size in files
        ) + "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            for name in sorted(folders)
        )
        count = len(files) + len(folders)
        self.served.requests.append(("LIST", f"{bucket}/{prefix}", 0))
        text = (
            f"<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>{count}</KeyCount>"
            f"{body}</ListBucketResult>"
        )
        self._answer(200, text.encode(), Content_Type="application/xml")


def _unchunked(body: bytes, headers: Any) -> bytes:
    """The content of an upload, of which AWS's client may send signed chunks."""
    if "aws-chunked" not in (headers.get("Content-Encoding") or ""):
        return body
    content, rest = b"", body
    while rest:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        if size == 0:
            break
        content, rest = content + rest[:size], rest[size + 2 :]
    return content
