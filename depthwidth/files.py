"""Files that nobody vouches for: opened only where reading ends, and whatever the system refuses said in one sentence."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import InputError


@contextmanager
def reading(what: str, name: str) -> Iterator[None]:
    """Around all that touches a file: turns the system's refusals into one sentence.

    Parameters
    ----------
    what : the kind of file that was expected, as in "config file".
    name : the path as the sentence shows it.

    Raises
    ------
    InputError
        if there is no such file, or it cannot be read.
    """
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"there is no {what} {name}") from None
    except PermissionError:
        raise InputError(f"{what} {name} may not be read: permission denied") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = getattr(error, "strerror", None) or "it is not a path"
        raise InputError(f"{what} {name} cannot be read: {reason}") from None


def open_regular(path: Path, what: str, name: str) -> BinaryIO:
    """A regular file, open for its bytes; to be called within :func:`reading`.

    Raises
    ------
    InputError
        if it is a folder, a pipe or a device.
    """
    # Asked before opening: a pipe would block and a device may never end.
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{what} {name} is not a regular file")
    return path.open("rb")
