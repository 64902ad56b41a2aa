"""A guest comes and goes: states, names, reset, power-off, and nothing left however it ended."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_kvm import BootTimeout, ConfigError, Guest, GuestConfig, GuestDied, KvmError, LaunchError, State

if TYPE_CHECKING:
    from collections.abc import Callable


def test_nothing_is_left_of_a_guest(no_leftovers: Callable[[], None]) -> None:
    """Process, supervisor, run directory, thread and descriptors are gone when the block ends."""
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with Guest(GuestConfig(name="brief")) as guest:
        assert guest.state.value == "running"
        pid, log = guest.pid, guest.console.log
        assert Path(f"/proc/{pid}").exists()
        assert log.exists()
        assert guest.boot_seconds is not None
        assert guest.argv[0].endswith("qemu-system-x86_64")
    assert guest.state is State.ENDED
    assert not log.exists()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors
    no_leftovers()
    guest.kill()  # a second time is nothing


def test_guest_that_never_boots_is_named_and_gone(no_leftovers: Callable[[], None]) -> None:
    """A kernel without a root ends in BootTimeout with the console's last lines, and nothing is left."""
    guest = Guest(GuestConfig(name="stuck", append="init=/nosuch rdinit=/nosuch", boot_timeout=8))
    with pytest.raises(BootTimeout, match=r'guest "stuck" was not ready within 8 s') as caught:
        guest.start()
    assert "Kernel panic" in caught.value.__notes__[0]
    assert isinstance(caught.value, TimeoutError)
    assert guest.state is State.ENDED
    no_leftovers()


def test_qemu_that_ends_at_once_is_quoted(no_leftovers: Callable[[], None]) -> None:
    """LaunchError has QEMU's own words, its exit code and the command."""
    guest = Guest(GuestConfig(extra_args=["-nosuch"]))
    with pytest.raises(LaunchError, match=r"exit code 1.*-nosuch: invalid option") as caught:
        guest.start()
    assert caught.value.exit_code == 1
    assert caught.value.argv[-1] == "-nosuch"
    assert "-nosuch" in caught.value.__notes__[0]
    no_leftovers()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"devices": ["VGB"]}, r'device "VGB": unknown to QEMU .*; did you mean "VGA"\?'),
        ({"machine": "q36"}, r'machine "q36": unknown to QEMU .*; did you mean "q35"\?'),
        ({"cpu": "Nehalen"}, r'cpu "Nehalen": unknown to QEMU .*; did you mean "Nehalem"\?'),
    ],
)
def test_names_that_qemu_does_not_know_get_the_nearest(config: dict[str, object], message: str) -> None:
    """What only QEMU can know is a ConfigError all the same."""
    with pytest.raises(ConfigError, match=message):
        Guest(GuestConfig.of(**config)).start()


def test_killed_qemu_is_noticed_by_a_running_command() -> None:
    """GuestDied names the signal, long before the command's own timeout."""
    with Guest() as guest:
        assert guest.pid is not None
        threading.Timer(0.3, os.kill, (guest.pid, signal.SIGKILL)).start()
        began = time.monotonic()
        with pytest.raises(GuestDied, match="signal 9") as caught:
            guest.run("sleep 60")
        assert caught.value.why == "signal"
        assert time.monotonic() - began < 5


def test_reset_comes_back_and_shutdown_ends() -> None:
    """After reset it is another boot; after shutdown QEMU has ended with success."""
    with Guest() as guest:
        first = guest.run("cat /proc/sys/kernel/random/boot_id").stdout
        guest.reset()
        assert guest.run("cat /proc/sys/kernel/random/boot_id").stdout != first
        guest.shutdown()
        assert guest.state is State.ENDED


def test_a_guest_is_started_once() -> None:
    """What was used up says so, and so does what never ran."""
    guest = Guest(GuestConfig(name="once"))
    with pytest.raises(KvmError, match=r'guest "once" is not running \(state: new\)'):
        _ = guest.qmp
    with guest, pytest.raises(KvmError, match="was started before"):
        guest.start()
    with pytest.raises(KvmError, match=r"not running \(state: ended\)"):
        _ = guest.console
