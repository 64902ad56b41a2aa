"""Every error that pytest-kvm raises, in one tree.

::

    KvmError
    ├── ConfigError          a value that cannot be right, found before anything ran
    ├── HostError            this machine lacks something: QEMU, an accelerator, room
    ├── ImageError           an image is missing, unreadable or not what it says
    ├── LaunchError          QEMU ended before it answered
    ├── GuestDied            the guest went away while it was in use
    ├── BootTimeout          (TimeoutError) the guest never became ready
    ├── ConsoleTimeout       (TimeoutError) the console did not say what was awaited
    ├── CommandTimeout       (TimeoutError) a command in the guest did not end
    ├── CommandError         a command in the guest returned something other than 0
    └── QmpError             QEMU refused a monitor command

The first line of each message can be understood alone; what helps further (the console's last
lines, QEMU's own words) rides along as a note (:meth:`BaseException.add_note`).
"""

from __future__ import annotations

import difflib
import shlex
from typing import TYPE_CHECKING, TypeVar

from pytest_kvm.result import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_kvm.result import Result

_NOTE_LENGTH = 2000  # characters of a command's output that an error shows


class KvmError(Exception):
    """Root of everything that pytest-kvm raises."""


class ConfigError(KvmError):
    """A value is wrong: names the value, where it stands, and what would be right."""


class HostError(KvmError):
    """The host lacks something that the guest needs; the message says what and how to get it."""


class ImageError(KvmError):
    """An image is missing, unreadable, or of another kind than it says."""


class LaunchError(KvmError):
    """QEMU ended before it answered.

    :ivar argv: the command line, as QEMU got it.
    :ivar exit_code: QEMU's exit status; negative for a signal.
    :ivar stderr: QEMU's own words.
    """

    def __init__(self, *, argv: Sequence[str], exit_code: int | None, stderr: str) -> None:
        self.argv = tuple(argv)
        self.exit_code = exit_code
        self.stderr = stderr
        words = stderr.strip().splitlines()
        said = words[-1] if words else "it printed nothing"
        super().__init__(f"QEMU ended at once ({describe_exit(exit_code)}): {said}")


class GuestDied(KvmError):
    """The guest went away while it was in use.

    :ivar why: ``"signal"``, ``"exit"``, ``"panic"``, ``"shutdown"``, ``"reset"`` or ``"io-error"``.
    """

    def __init__(self, message: str, *, why: str) -> None:
        self.why = why
        super().__init__(message)


class BootTimeout(KvmError, TimeoutError):
    """The guest did not become ready in time."""


class ConsoleTimeout(KvmError, TimeoutError):
    """The serial console did not say what was awaited."""


class CommandTimeout(KvmError, TimeoutError):
    """A command in the guest did not end in time and was killed.

    :ivar stdout: what it had printed until then.
    :ivar stderr: what it had complained until then.
    """

    def __init__(self, message: str, *, stdout: str = "", stderr: str = "") -> None:
        self.stdout = stdout
        self.stderr = stderr
        super().__init__(message)


class CommandError(KvmError):
    """A command in the guest failed.

    :ivar result: what it returned and printed.
    """

    def __init__(self, result: Result) -> None:
        self.result = result
        shown = result.args if isinstance(result.args, str) else shlex.join(result.args)
        super().__init__(f"command returned {result.returncode}: {shown}")
        for name, text in (("stderr", result.stderr), ("stdout", result.stdout)):
            if text.strip():
                self.add_note(f"{name}:\n{printable(text.rstrip()[-_NOTE_LENGTH:])}")


class QmpError(KvmError):
    """QEMU refused a monitor command.

    :ivar error_class: QMP's own class, for example ``"CommandNotFound"``; empty when there is none.
    """

    def __init__(self, message: str, *, error_class: str = "") -> None:
        self.error_class = error_class
        super().__init__(message)


def describe_exit(code: int | None) -> str:
    """Say a process's end in words: ``exit code 1``, ``signal 9``, ``still running``."""
    if code is None:
        return "still running"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


_Error = TypeVar("_Error", bound=KvmError)


def with_console(error: _Error, tail: str) -> _Error:
    """Add the console's last lines to an error as a note, and return it."""
    error.add_note(f"Last lines of the console:\n{tail}" if tail else "The console printed nothing.")
    return error


def did_you_mean(word: str, choices: Iterable[str], *, most: int = 12) -> str:
    """End an error message: the nearest valid choice, or all of them when they are few.

    >>> did_you_mean("sokets", ["sockets", "cores"])
    'did you mean "sockets"?'
    """
    known = sorted(set(choices))
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f'did you mean "{near[0]}"?'
    return f"valid: {', '.join(known)}" if len(known) <= most else f"{len(known)} others are valid"
