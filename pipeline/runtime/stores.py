"""How is an object store reached? By one way for videos, indexes, parts and checkpoints."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl

from marey.configs.errors import InputError, StoreError, UsageError

if TYPE_CHECKING:
    from pyarrow import fs

SECRET = re.compile(r"secret|token|password|signature|(^|_)sig$|(^|_)key$", re.IGNORECASE)
"""Names of URI options whose values are credentials."""
_USER = re.compile(r"(://[^/?@]*):[^/?@]*@")


def has_secrets(uri: str) -> bool:
    """Whether a URI holds credentials: a password before its host, or an option that is one."""
    if "://" not in uri:
        return False
    options = parse_qsl(uri.partition("?")[2], keep_blank_values=True)
    return bool(_USER.search(uri)) or any(SECRET.search(name) for name, _ in options)


def without_secrets(uri: str) -> str:
    """A URI as it may be shown: what may be credentials is left out."""
    if not has_secrets(uri):
        return uri
    path, _, options = _USER.sub(r"\1:...@", uri).partition("?")
    shown = [
        f"{name}=..." if SECRET.search(name) else f"{name}={value}"
        for name, value in parse_qsl(options, keep_blank_values=True)
    ]
    return path + (f"?{'&'.join(shown)}" if shown else "")


def refuse_secrets(uris: Iterable[str]) -> None:
    """Raise UsageError where one of the URIs holds credentials: they would be logged and stored."""
    for uri in uris:
        if has_secrets(uri):
            raise UsageError(
                f"{without_secrets(uri)} holds credentials, which would be stored and logged with "
                "it. Leave them out and set them in the environment: AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or what your store's client reads"
            )


def connect(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI, and the path in it.

    Raises InputError for a URI that holds credentials, and for one that means nothing.
    """
    import pyarrow.fs  # slow to import, and needed for remote files only

    try:
        refuse_secrets([uri])
    except UsageError as error:
        raise InputError(str(error)) from error
    try:
        return pyarrow.fs.FileSystem.from_uri(uri)
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"cannot open {uri}: {str(error).splitlines()[0]}") from error


PATIENCE_S = 900.0
"""A store that gives no answer for so long is gone: what needs it ends as unfinished. The variable
MAREY_STORE_PATIENCE_S sets another time."""
OBJECT_PATIENCE_S = 60.0
"""So long one object is tried while its store answers other requests."""
PAUSES_S = (0.5, 2.0, 8.0, 15.0)
"""Waits before the second try of a request, the third, ...; the last is repeated."""
QUIET_S = 5.0
"""A store that answers again within this time is not spoken of."""
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors that another try does not mend."""
_FINAL_NUMBERS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.ENAMETOOLONG)
_FINAL_ANSWERS = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN|EXPIRED_TOKEN|"
    r"NO_SUCH_(BUCKET|KEY|UPLOAD)|RESOURCE_NOT_FOUND|HTTP status (400|401|403|404|405|409|411|412)"
)
"""What stores say of requests that they will never serve, in pyarrow's errors."""
T = TypeVar("T")


def passes(error: OSError) -> bool:
    """Whether an error is of the kind that passes: a network, a busy store; not a missing file."""
    return not (
        isinstance(error, FINAL)
        or error.errno in _FINAL_NUMBERS
        or _FINAL_ANSWERS.search(str(error))
    )


def patiently(attempt: Callable[[], T], uri: str) -> T:
    """What `attempt` gives, tried again while its error is of the kind that passes.

    All threads wait together for a store that gives no answer, with one message; one of them tries.
    Raises StoreError where it does not pass, and other errors at once.
    """
    store = _store(uri)
    began = time.monotonic()
    for number in itertools.count():
        store.await_turn()
        try:
            result = attempt()
        except OSError as error:
            if not passes(error):
                raise
            store.failed(error, number)
            late = time.monotonic() - began > OBJECT_PATIENCE_S
            if store.gone() or (late and (store.answered_since(began) or _answers(uri, store))):
                raise StoreError(
                    f"{uri}: cannot be reached for {time.monotonic() - began:.0f} s ({error})"
                ) from error
        else:
            store.answered()
            return result
    raise RuntimeError("the last try returns or raises")


def _answers(uri: str, store: _Store) -> bool:
    """Whether a store answers something else than the file that it does not give."""
    if "://" not in uri:
        return True
    try:
        system, path = connect(uri)
        system.get_file_info(path.partition("/")[0])
    except OSError as error:
        if passes(error):
            return False
    except InputError:
        return True  # no file system of pyarrow: nothing else can be asked
    store.answered()
    return True


def check_not_gone(uri: str) -> None:
    """Raise StoreError where the store of a URI is gone: no other file of it has to be tried."""
    if "://" in uri and _store(uri).gone():
        store = _store(uri)
        raise StoreError(
            f"{store.name} has given no answer for more than {_patience_s():.0f} s "
            f"({store.fault}); the same command goes on when it does"
        )


def waited_s(thread: int | None = None) -> float:
    """Seconds that a thread (default: this one) has waited for stores that gave no answer."""
    ident = threading.get_ident() if thread is None else thread
    since = _waiting.get(ident)
    return _waited.get(ident, 0.0) + (0.0 if since is None else time.monotonic() - since)


def clock() -> float:
    """Seconds of this thread's own work: `time.monotonic()` without waits for stores."""
    return time.monotonic() - waited_s()


def is_past(deadline: float) -> bool:
    """Whether `clock()` has passed a deadline; asked for every packet."""
    # waits only hold the clock back: mostly there is no need to look them up
    return time.monotonic() > deadline and clock() > deadline


_waited: dict[int, float] = {}
_waiting: dict[int, float] = {}


class _Store:
    """Whether one endpoint answers, as all threads of this process know it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._change = threading.Condition()
        self._failing_since: float | None = None
        self._next_try = 0.0
        self._answered = 0.0
        self._said = False
        self.fault = ""
        """What the last request that got no answer ended with."""

    def gone(self) -> bool:
        """Whether it has given no answer for longer than anybody waits."""
        since = self._failing_since
        return since is not None and time.monotonic() - since > _patience_s()

    def answered_since(self, when: float) -> bool:
        """Whether it has answered some request after that time."""
        return self._answered > when

    def await_turn(self) -> None:
        """Wait while it gives no answer, until it is this thread's turn to try."""
        me = threading.get_ident()
        with self._change:
            while self._failing_since is not None and not self.gone():
                left = self._next_try - time.monotonic()
                if left <= 0:
                    self._next_try = time.monotonic() + PAUSES_S[-1]  # the others wait for this try
                    return
                _waiting[me] = time.monotonic()
                try:
                    self._change.wait(left)
                finally:
                    _waited[me] = _waited.get(me, 0.0) + time.monotonic() - _waiting.pop(me)

    def failed(self, error: OSError, number: int) -> None:
        """Note that a request got no answer, for the so-manieth time."""
        with self._change:
            now = time.monotonic()
            self.fault = str(error).splitlines()[0][:200]
            if self._failing_since is None:
                self._failing_since = now
            self._next_try = now + PAUSES_S[min(number, len(PAUSES_S) - 1)]
            if not self._said and now - self._failing_since > QUIET_S:
                self._said = True
                _log.warning(
                    "%s does not answer (%s): waiting for it, up to %.0f s",
                    self.name, self.fault, _patience_s(),
                )  # fmt: skip

    def answered(self) -> None:
        """Note that it answers."""
        with self._change:
            self._answered = time.monotonic()
            if self._failing_since is None:
                return
            if self._said:
                seconds = self._answered - self._failing_since
                _log.warning("%s answers again, after %.0f s", self.name, seconds)
            self._failing_since, self._said = None, False
            self._change.notify_all()


_stores: dict[str, _Store] = {}
_known = threading.Lock()
_log = logging.getLogger("marey")


def _store(uri: str) -> _Store:
    """The endpoint of a URI: scheme, bucket and options. All local files are one."""
    if "://" not in uri:
        uri = "file://"
    scheme, _, rest = without_secrets(uri).partition("://")
    path, mark, options = rest.partition("?")
    name = f"{scheme}://{path.partition('/')[0]}{mark}{options}"
    with _known:
        return _stores.setdefault(name, _Store(name))


def _patience_s() -> float:
    return float(os.environ.get("MAREY_STORE_PATIENCE_S") or PATIENCE_S)
