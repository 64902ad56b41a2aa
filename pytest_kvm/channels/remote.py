"""What can be done in a guest with nothing but a way to run commands: copy files, wait for things."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvm.channels import files, waiting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_kvm.result import Result


class Remote(ABC):
    """A computer that runs commands."""

    @abstractmethod
    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        timeout: float = 60,
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run a command and wait for its end."""

    def put(self, local: str | Path, remote: str, *, timeout: float = 300) -> None:
        """Copy a file or directory into the guest.

        :param remote: absolute path; an existing directory gets it inside, as with ``cp -r``.
        :raise FileNotFoundError: when there is nothing at ``local``.
        """
        files.put(self.run, Path(local), remote, timeout)

    def get(self, remote: str, local: str | Path, *, timeout: float = 300) -> Path:
        """Copy a file or directory out of the guest and return where it is.

        :param local: an existing directory gets it inside, as with ``cp -r``.
        :raise CommandError: when there is nothing at ``remote``.
        """
        return files.get(self.run, remote, Path(local), timeout)

    def wait_for_port(self, port: int, *, timeout: float = 60) -> None:
        """Wait until something in the guest listens on a TCP port.

        :raise CommandTimeout: when nothing does.
        """
        what = f"a listener on port {port}"
        waiting.until_succeeds(self.run, waiting.port_listens(port), timeout=timeout, what=what)

    def wait_for_unit(self, unit: str, *, timeout: float = 120) -> None:
        """Wait until a systemd unit is active.

        :raise KvmError: when it has failed.
        :raise CommandTimeout: when it does not become active.
        """
        waiting.until_succeeds(
            self.run,
            waiting.unit_is_active(unit),
            timeout=timeout,
            what=f"unit {unit} active",
            hopeless=lambda result: result.stdout == "failed\n",
        )

    def wait_for_file(self, path: str, *, timeout: float = 60) -> None:
        """Wait until a path exists in the guest.

        :raise CommandTimeout: when it does not.
        """
        waiting.until_succeeds(self.run, waiting.file_exists(path), timeout=timeout, what=f"file {path}")

    def wait_until_succeeds(self, command: str, *, timeout: float = 60) -> Result:
        """Run a command again and again until it returns 0, and return that result.

        :raise CommandTimeout: when it does not, with its last output as a note.
        """
        return waiting.until_succeeds(self.run, command, timeout=timeout)
