"""What libraries raise about the world outside (no connection, no permission, nothing there, no room), as one error of
one line.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from rfx.system.text import printable

# Mistakes of a program, whose traceback is worth more than a line; and ValueError, which says what is wrong in a line
# already.
PASSING = (ValueError, ImportError, TypeError, AttributeError, NameError, AssertionError)
ROOM, PERMISSION = (errno.ENOSPC, errno.EDQUOT), (errno.EACCES, errno.EPERM, errno.EROFS)
CONNECTION = (
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ETIMEDOUT,
    errno.ENETDOWN,
)
CONNECTION_CLASSES = (
    "Connect",
    "Timeout",
    "Network",
    "ProtocolError",
    "ProxyError",
    "Comm",
    "Offline",
    "RayError",
)  # in names of classes
MAX_DETAIL = 200  # characters of what the library says


class OutsideError(OSError):
    """A library could not reach, read or write something outside this process; the message is one line."""


@contextmanager
def outside(what: str, login: str = "log in there, as one who may") -> Iterator[None]:
    """Around calls of a library that reaches out for what, such as "hf://owner/name"; login says how one gets
    permission there.

    Whatever the library raises, of whatever class, becomes an OutsideError, but for ValueError and mistakes of a
    program, which pass as they are.
    """
    try:
        yield
    except (OutsideError, *PASSING):
        raise
    except Exception as error:
        reason, mend = _reason(error, login)
        detail = next(iter(printable_lines(error)), type(error).__name__)
        raise OutsideError(f"{what}: {reason}{' ' if reason else ''}({detail}){f': {mend}' if mend else ''}") from error


def printable_lines(error: BaseException) -> list[str]:
    """What an error says, line by line, the longest cut short; empty lines left out."""
    lines = (printable(" ".join(line.split())) for line in str(error).splitlines())
    return [line if len(line) <= MAX_DETAIL else f"{line[:MAX_DETAIL]}..." for line in lines if line]


def _reason(error: Exception, login: str) -> tuple[str, str]:
    """What is wrong, in words, and what to do about it; the words are empty where no cause is known."""
    for cause in _chain(error):
        status = getattr(getattr(cause, "response", None), "status_code", None) or getattr(cause, "code", None)
        number, file = (cause.errno, cause.filename) if isinstance(cause, OSError) else (None, None)
        if status in (401, 403):
            return "no permission", login
        if status in (404, 410):
            return "not found", "see whether its name is right, and whether it is private: then " + login
        if number in ROOM or status == 507:
            return "no space left on the disk", "make room, and try again"
        if number in PERMISSION:
            return (
                f"no permission to write {file}" if file else "no permission",
                "choose a folder that can be written",
            )
        if (
            number in CONNECTION
            or isinstance(cause, (ConnectionError, TimeoutError, socket.gaierror))
            or any(name in type(cause).__name__ for name in CONNECTION_CLASSES)
        ):
            return "no connection", "see whether this computer has a network, and try again"
    return "", ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that led to it; the first first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
