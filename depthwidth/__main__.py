"""``depthwidth`` and ``python -m depthwidth``: run the command line; invalid input gives one sentence and status 2."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from typing import Any

import click

from .cli import cli
from .cli.live import make_room, reporting
from .errors import InputError, printable, shown
from .progress import is_quiet

# A process that ends looks for garbage among all objects that it has: a sixth of the time of a plan. Frozen ones are left out.
atexit.register(gc.freeze)

_HELP = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""The exception with the help page of a group without a command; older releases of click print that page themselves."""


def main() -> None:
    """Run the command line and exit."""
    _limit_threads(sys.argv[1:])
    status: Any = None
    try:
        _check_words(sys.argv[1:])
        with reporting(not (_prints_own_progress(sys.argv[1:]) or is_quiet(sys.argv[1:]))):
            status = cli(prog_name="depthwidth", standalone_mode=False)
        if sys.stdout is not None:  # closed by the caller
            sys.stdout.flush()
    except InputError as error:
        _fail(str(error), 2)
    except _HELP as error:
        print(error.format_message())  # noqa: T201
    except click.ClickException as error:
        _fail(" ".join(error.format_message().split()), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped", 130)
    except BrokenPipeError:
        _silence()
        sys.exit(1)
    except OSError as error:
        if error.filename is not None:  # a path that no file can have, such as one that is too long
            _fail(f"{shown(error.filename)} cannot be used as a file: {error.strerror}", 2)
        _silence()
        _fail(f"the output cannot be written: {error.strerror or error}", 3)
    except MemoryError:
        _fail("this takes more memory than there is", 3)
    sys.exit(status if isinstance(status, int) else 0)


def _limit_threads(arguments: list[str]) -> None:
    """One thread for NumPy's linear algebra, unless the environment sets another number; PyTorch keeps its own.

    The matrices are small, so that threads mostly wait for each other: `describe` took 8 s of processor time with two threads
    on a busy machine, and 1.4 s with one. NumPy reads these variables when it is imported, which is later.
    """
    with_torch = arguments[:1] == ["verify"] and arguments[1:2] in (["run"], ["resume"], ["capacity"])
    if not with_torch and "--measure" not in arguments:
        for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
            os.environ.setdefault(name, "1")


def _prints_own_progress(arguments: list[str]) -> bool:
    """True for commands that show the progress of their runs themselves, and for a page that is served until Ctrl-C."""
    watching = arguments[1:2] == ["status"] and "--watch" in arguments
    return arguments[:1] == ["explore"] or (
        arguments[:1] == ["verify"] and (arguments[1:2] in (["run"], ["resume"]) or watching)
    )


def _check_words(arguments: list[str]) -> None:
    """Refuse what cannot be an argument of a process, and therefore no path: a null byte, half a character."""
    for word in arguments:
        try:
            whole = b"\0" not in os.fsencode(word)
        except UnicodeEncodeError:
            whole = False
        if not whole:
            raise InputError(f"the argument {shown(word)} holds a null byte or half a character")


def _silence() -> None:
    """After a write failed: nothing more may be written to the output, not even at exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(sentence: str, status: int) -> None:
    make_room()
    if sys.stderr is not None:  # None would mean the output
        print(f"Error: {printable(sentence)}", file=sys.stderr)  # noqa: T201
    sys.exit(status)


if __name__ == "__main__":
    main()
