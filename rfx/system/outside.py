"""Turns library errors about the outside world into one error with a one-line message.

Such errors are no connection, no permission, not found, and no disk space.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from rfx.system.text import printable

# These errors pass unchanged. Most are programming errors, whose traceback says more than one line. A ValueError
# already says in one line what is wrong.
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
# An error is a connection error if its class name contains one of these.
CONNECTION_CLASSES = ("Connect", "Timeout", "Network", "ProtocolError", "ProxyError", "Comm", "Offline", "RayError")
MAX_DETAIL = 200  # characters of the library's own message that are shown


class OutsideError(OSError):
    """A library could not reach, read or write something outside this process. The message is one line."""


@contextmanager
def outside(what: str, login: str = "log in there, as one who may") -> Iterator[None]:
    """Turn errors of a library inside the with block into OutsideError.

    what is the thing that the library accesses, such as "hf://owner/name". login says how to get permission. Errors of
    any class become an OutsideError, except ValueError and programming errors (PASSING), which pass unchanged.
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
    """The lines of an error's message, without empty lines. Lines over MAX_DETAIL characters are cut short."""
    lines = (printable(" ".join(line.split())) for line in str(error).splitlines())
    return [line if len(line) <= MAX_DETAIL else f"{line[:MAX_DETAIL]}..." for line in lines if line]


def _reason(error: Exception, login: str) -> tuple[str, str]:
    """What is wrong, in words, and what to do about it. Both are empty if no cause is known."""
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
    """The error, then its cause, then the cause's cause, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
