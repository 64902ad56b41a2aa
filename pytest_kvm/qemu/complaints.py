"""Understand QEMU's last words: which value it did not know, and which it would have."""

from __future__ import annotations

import re
import shlex
import signal
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_kvm.errors import ConfigError, HostError, KvmError, LaunchError
from pytest_kvm.qemu import binary

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_kvm.qemu.binary import Qemu

# What QEMU 7.2 to 11 say; the group is the value, for a machine it stands on the command line alone.
_UNKNOWN = {
    "machine": re.compile(r"unsupported machine type()"),
    "cpu": re.compile(r"unable to find CPU model '([^']+)'"),
    "device": re.compile(r"'([^']+)' is not a valid device model name"),
}
_SECCOMP = {-signal.SIGSYS, 128 + signal.SIGSYS}  # the latter when a shell script starts QEMU


def explain(argv: Sequence[str], exit_code: int | None, words: str, qemu: Qemu, cache: Path) -> KvmError:
    """Make the error for a QEMU that ended before it answered, with the command as a note."""
    for kind, pattern in _UNKNOWN.items():
        if match := pattern.search(words):
            try:
                known = binary.capabilities(qemu, cache=cache)
                for value in [match[1]] if match[1] else _machines(argv):
                    binary.check_known(kind, value, known)  # type: ignore[arg-type]  # the keys above
            except ConfigError as unknown:
                return unknown
            except HostError:
                pass  # it cannot even be asked; what it said is all there is
    if exit_code in _SECCOMP:
        words += "\nits seccomp sandbox stopped it"
    error = LaunchError(argv=argv, exit_code=exit_code, stderr=words)
    error.add_note("The command was:\n" + shlex.join(argv))
    return error


def _machines(argv: Sequence[str]) -> list[str]:
    """Return the machine types of a command line; an option may also be given for its properties alone."""
    given = [value for option, value in pairwise(argv) if option in {"-machine", "-M"}]
    return [value for value in given if "=" not in value.partition(",")[0]]
