"""What every way of running commands in a guest offers."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Protocol

from pytest_kvm.errors import CommandTimeout
from pytest_kvm.result import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_kvm.result import Result


class CommandChannel(Protocol):
    """Runs commands in a guest, one after the other."""

    def wait_ready(self, timeout: float) -> None:
        """Wait until a command can be run.

        :raise TimeoutError: when that takes longer than ``timeout`` seconds.
        :raise ConnectionError: when the guest is gone.
        """

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float,
        input: bytes = b"",
        env: dict[str, str] | None = None,
    ) -> Result:
        """Run one command to its end.

        :param command: shell text, or words.
        :param timeout: seconds; the command is killed when they are over.
        :raise CommandTimeout: when it was killed.
        :raise ConnectionError: when the guest is gone.
        """

    def restarted(self) -> None:
        """Know that the guest was reset and will have to become ready again."""

    def close(self) -> None:
        """Let go of the channel; may be called twice."""


def timed_out(
    command: str | Sequence[str], timeout: float, outcome: str, *, stdout: str = "", stderr: str = ""
) -> CommandTimeout:
    """Make the error for a command that did not end, with what it had printed as a note."""
    shown = command if isinstance(command, str) else shlex.join(command)
    error = CommandTimeout(
        f"command did not end within {timeout:g} s and {outcome}: {shown}", stdout=stdout, stderr=stderr
    )
    printed = (stdout + stderr).strip()
    error.add_note(f"It had printed:\n{printable(printed[-2000:])}" if printed else "It had printed nothing.")
    return error
