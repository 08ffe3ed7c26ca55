"""A file behind `http://` or `https://`, read by ranges (RFC 9110, section 14)."""

from __future__ import annotations

import re
from urllib.error import HTTPError
from urllib.request import Request, urlopen

TIMEOUT_S = 60.0
"""Longest wait for an answer."""
GONE: dict[int, type[Exception]] = {
    401: PermissionError, 403: PermissionError, 404: FileNotFoundError, 410: FileNotFoundError,
    416: ValueError,
}  # fmt: skip
"""Answers that another try does not change."""
_TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")


def is_http(location: str) -> bool:
    """Whether a location is a web address."""
    return location.lower().startswith(("http://", "https://"))


class HttpFile:
    """An open file: `seek`, `read`, `size`, `close`. What fails raises OSError."""

    def __init__(self, url: str) -> None:
        """Raises FileNotFoundError or PermissionError, and ValueError where ranges are not served,
        which must not mean that each block fetches all of the file."""
        self._url = url
        self._place = 0
        content, self._size = self._fetch(0, 1)
        if len(content) > 1:
            raise ValueError("the server does not serve ranges of a file; copy the file")

    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    def seek(self, place: int) -> int:
        """Go to a byte."""
        self._place = place
        return place

    def read(self, count: int) -> bytes:
        """So many bytes from there on; fewer at the end."""
        stop = min(self._place + count, self._size)
        if stop <= self._place:
            return b""
        content, _ = self._fetch(self._place, stop)
        self._place += len(content)
        return content

    def close(self) -> None:
        """Nothing is held open between two requests."""

    def _fetch(self, start: int, stop: int) -> tuple[bytes, int]:
        """Bytes [start, stop), and how many the file has."""
        request = Request(self._url, headers={"Range": f"bytes={start}-{stop - 1}"})
        try:
            with urlopen(request, timeout=TIMEOUT_S) as answer:
                total = _TOTAL.match(answer.headers.get("Content-Range") or "")
                if total is None:
                    return answer.read(2), 0
                return answer.read(), int(total[1])
        except HTTPError as error:
            raise GONE.get(error.code, OSError)(f"HTTP {error.code} {error.reason}") from error
