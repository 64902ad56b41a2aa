"""Waiting, with a clock that stands still until somebody sleeps."""

from __future__ import annotations

import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from pytest_kvm.channels import waiting
from pytest_kvm.errors import CommandTimeout, KvmError
from pytest_kvm.result import Result, make_result

if TYPE_CHECKING:
    from pathlib import Path


class Clock:
    """Time that passes by sleeping, and by running commands."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


class Guest:
    """Answers with one exit status after the other, the last one for ever."""

    def __init__(
        self, *codes: int, says: str = "not yet", costs: float = 0.0, clock: Clock | None = None
    ) -> None:
        self.codes = list(codes)
        self.says = says
        self.timeouts: list[float] = []
        self.costs, self.clock = costs, clock

    def __call__(self, command: str, *, check: bool, timeout: float) -> Result:
        assert not check
        self.timeouts.append(timeout)
        if self.clock:
            self.clock.now += self.costs
        code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
        return make_result(command, code, self.says.encode(), b"")


def test_success_at_once_does_not_sleep() -> None:
    """The result of the run that succeeded is returned."""
    clock, guest = Clock(), Guest(0, says="yes")
    result = waiting.until_succeeds(guest, "true", timeout=5, clock=clock, sleep=clock.sleep)
    assert (result.stdout, clock.naps) == ("yes", [])


def test_pauses_grow_to_half_a_second() -> None:
    """Often at first, seldom later."""
    clock, guest = Clock(), Guest(1)
    with pytest.raises(CommandTimeout):
        waiting.until_succeeds(guest, "false", timeout=5, clock=clock, sleep=clock.sleep)
    assert clock.naps[:6] == [0.02, 0.04, 0.08, 0.16, 0.32, 0.5]
    assert max(clock.naps) == 0.5
    assert 4 < clock.now - 1000 <= 5


def test_the_deadline_counts_what_commands_take() -> None:
    """A slow command uses up the time, and gets no more than what is left of it."""
    clock = Clock()
    guest = Guest(1, costs=2.0, clock=clock)
    with pytest.raises(CommandTimeout):
        waiting.until_succeeds(guest, "false", timeout=5, clock=clock, sleep=clock.sleep)
    assert len(guest.timeouts) == 3
    assert guest.timeouts[0] == 5
    assert all(later < earlier for earlier, later in zip(guest.timeouts, guest.timeouts[1:], strict=False))


def test_the_error_says_what_was_awaited() -> None:
    """Its first line names the thing and the time, its note the last answer."""
    clock = Clock()
    with pytest.raises(CommandTimeout, match=r"^port 22: not so within 1 s\n") as caught:
        waiting.until_succeeds(Guest(3), "x", timeout=1, what="port 22", clock=clock, sleep=clock.sleep)
    assert caught.value.__notes__ == ["The last try returned 3 and said: not yet"]
    with pytest.raises(CommandTimeout, match=r"^some command: not so within 1 s\n"):
        waiting.until_succeeds(Guest(1), "some command", timeout=1, clock=clock, sleep=clock.sleep)


def test_what_is_hopeless_is_given_up() -> None:
    """A unit that has failed will not become active by waiting."""
    clock, guest = Clock(), Guest(3, 3, says="failed\n")
    with pytest.raises(KvmError, match=r"^unit x active: will not come\n") as caught:
        waiting.until_succeeds(
            guest,
            "x",
            timeout=60,
            what="unit x active",
            hopeless=lambda result: result.stdout == "failed\n",
            clock=clock,
            sleep=clock.sleep,
        )
    assert not isinstance(caught.value, TimeoutError)
    assert clock.naps == []


TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
  10: 0000000000000000FFFF00000100007F:0CEA 00000000000000000000000000000000:0000 0A 00000000:00000000 00
"""


@pytest.mark.parametrize(
    ("port", "listens"), [(22, True), (8080, False), (3306, True), (2, False), (0x16A, False)]
)
def test_the_kernels_table_tells_who_listens(tmp_path: Path, port: int, listens: bool) -> None:
    """State 0A is listening; an established connection on the port is not."""
    table = tmp_path / "tcp"
    table.write_text(TCP)
    command = re.sub(r"/proc/net/tcp6?", "", waiting.port_listens(port), count=1)
    command = command.replace("/proc/net/tcp6", shlex.quote(str(table)))
    assert (subprocess.run(["/bin/sh", "-c", command], check=False).returncode == 0) is listens


def test_names_are_quoted(tmp_path: Path) -> None:
    """A path or unit may hold anything."""
    path = tmp_path / "a b'c"
    command = waiting.file_exists(str(path))
    assert subprocess.run(["/bin/sh", "-c", command], check=False).returncode != 0
    path.touch()
    assert subprocess.run(["/bin/sh", "-c", command], check=False).returncode == 0
    assert shlex.split(waiting.unit_is_active("a b.service")) == [
        "systemctl",
        "is-active",
        "--",
        "a b.service",
    ]
