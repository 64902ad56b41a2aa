"""What a command in the guest returned."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Terminal control: CSI, OSC (to BEL or ST), and two-byte sequences; ECMA-48.
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Result:
    r"""A command that has ended.

    :ivar args: the command as it was given: shell text, or words.
    :ivar returncode: exit status as the guest's shell tells it: 128 + n for signal n.
    :ivar stdout: what it printed; bytes that are no UTF-8 are readable as ``\xff``.
    :ivar stderr: what it complained, likewise.
    :ivar stdout_bytes: what it printed, byte for byte.
    """

    args: str | Sequence[str]
    returncode: int
    stdout: str
    stderr: str
    stdout_bytes: bytes


def make_result(args: str | Sequence[str], returncode: int, stdout: bytes, stderr: bytes) -> Result:
    """Make a :class:`Result` of what a channel delivered."""
    return Result(args, returncode, readable(stdout), readable(stderr), stdout)


def readable(data: bytes) -> str:
    r"""Decode UTF-8 and keep what is none in sight.

    >>> readable(b"caf\xc3\xa9 \xff")
    'café \\xff'
    """
    return data.decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    r"""Make a guest's text safe for the terminal and for reports: no escape sequences, no control characters.

    >>> printable("\x1b[31mred\x1b[0m\r\n\x07end")
    'red\\n\\x07end'
    """
    plain = _ESCAPE.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", plain)


def shell_text(command: str | Sequence[str], env: dict[str, str] | None = None) -> str:
    """Write a command, and the environment it wants, as text for ``sh``.

    :param command: shell text, or words that reach the program as they are.
    """
    text = command if isinstance(command, str) else shlex.join(command)
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in (env or {}).items())
    return exports + text
