"""A process behind its supervisor: real processes, though none of them is QEMU."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from pytest_kvm.qemu import rundir
from pytest_kvm.qemu.process import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@contextmanager
def started(base: Path, *argv: str, descriptors: Iterable[int] = ()) -> Iterator[Process]:
    """Start a program as QEMU would be, and end it."""
    with rundir.created(base, "guest") as (directory, lock):
        process = Process(argv, directory, lock, descriptors)
    try:
        yield process
    finally:
        process.close()
        process.close()


def is_running(pid: int) -> bool:
    """A zombie has ended; only its parent has not looked yet."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def test_exit_code_and_words(tmp_path: Path) -> None:
    """The exit code comes back, and so does what was printed on both streams."""
    with started(tmp_path, "/bin/sh", "-c", r"echo out; printf 'err \377\n' >&2; exit 3") as process:
        assert process.wait(5) == 3
        assert process.poll() == 3
        assert process.words == "out\nerr \\xff\n"
    assert process.words == ""
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_runs(tmp_path: Path) -> None:
    """It has a process id, no exit code, and the arguments it was given."""
    with started(tmp_path, "/bin/sleep", "60") as process:
        process.wait_started()
        assert process.pid is not None
        assert psutil.Process(process.pid).cmdline() == ["/bin/sleep", "60"]
        assert process.poll() is None
        assert process.wait(0.05) is None
        assert process.argv == ("/bin/sleep", "60")
    assert not is_running(process.pid)
    assert list(tmp_path.iterdir()) == []


def test_terminate_and_kill(tmp_path: Path) -> None:
    """Each sends its signal; a program may resist the first."""
    with started(tmp_path, "/bin/sleep", "60") as process:
        process.terminate()
        assert process.wait(5) == -signal.SIGTERM
        process.terminate()
        process.kill()
    stubborn = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
    with started(tmp_path, "/bin/sh", "-c", stubborn) as process:
        assert within(5, lambda: "ready" in process.words)
        process.terminate()
        assert process.wait(0.2) is None
        process.kill()
        assert process.wait(5) == -signal.SIGKILL


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    """It ends with 127 and says what is missing, as a shell would."""
    with started(tmp_path, "/nonexistent/qemu") as process:
        assert process.wait(5) == 127
        assert process.words == "/nonexistent/qemu: No such file or directory\n"


def test_descriptors_reach_the_program(tmp_path: Path) -> None:
    """What is passed is open there under the same number, and sees its end when the program is gone."""
    ours, theirs = socket.socketpair()
    number = theirs.fileno()
    say = f"import os; os.write({number}, b'hello')"
    with started(tmp_path, sys.executable, "-I", "-S", "-c", say, descriptors=[number]) as process:
        theirs.close()
        ours.settimeout(5)
        assert ours.recv(100) == b"hello"
        assert ours.recv(100) == b"", "the supervisor must not keep it open"
        assert process.wait(5) == 0
    ours.close()


def test_the_program_inherits_nothing_else(tmp_path: Path) -> None:
    """Neither the lock nor the control socket nor a descriptor of the test process leaks into QEMU."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    with started(
        tmp_path, sys.executable, "-I", "-S", "-c", "import os; print(os.listdir('/proc/self/fd'))"
    ) as process:
        assert process.wait(5) == 0
        assert len(process.words.split(",")) == 4, process.words  # 0, 1, 2 and the listing itself
    os.close(read)
    os.close(write)


def test_signals_are_at_their_defaults(tmp_path: Path) -> None:
    """The supervisor ignores SIGTERM, SIGINT and SIGHUP; its program does not."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with started(tmp_path, "/bin/sleep", "60") as process:
            process.wait_started()
            assert process.pid is not None
            supervisor = psutil.Process(process.pid).parent()
            assert supervisor is not None
            supervisor.send_signal(number)
            assert process.wait(0.1) is None
            os.kill(process.pid, number)
            assert process.wait(5) == -number


def test_another_thread_may_wait_while_one_asks(tmp_path: Path) -> None:
    """Both learn the exit code, whoever reads it from the supervisor."""
    codes: list[int | None] = []
    with started(tmp_path, "/bin/sh", "-c", "sleep 0.1; exit 9") as process:
        threads = [threading.Thread(target=lambda: codes.append(process.wait(5))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert codes == [9, 9, 9, 9]


def test_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    """Its program dies with it, the test process learns of it, and the next sweep takes the directory."""
    with rundir.created(tmp_path, "guest") as (directory, lock):
        process = Process(["/bin/sleep", "60"], directory, lock, ())
    process.wait_started()
    assert process.pid is not None
    pid = process.pid
    os.kill(process._supervisor.pid, signal.SIGKILL)
    assert within(1, lambda: not is_running(pid))
    assert process.wait(5) == -signal.SIGKILL
    process.close()
    assert directory.exists()
    assert rundir.sweep(tmp_path) == [directory.name]
    assert not directory.exists()


def test_a_supervisor_that_is_killed_with_a_word_unread(tmp_path: Path) -> None:
    """A connection that was reset is an end like any other."""
    with rundir.created(tmp_path, "guest") as (directory, lock):
        process = Process(["/bin/sleep", "60"], directory, lock, ())
    process.wait_started()
    os.kill(process._supervisor.pid, signal.SIGSTOP)
    process.terminate()
    os.kill(process._supervisor.pid, signal.SIGKILL)
    assert process.wait(5) == -signal.SIGKILL
    process.close()


PARENT = textwrap.dedent(
    """
    import os, sys, time
    from pathlib import Path
    from pytest_kvm.qemu import rundir
    from pytest_kvm.qemu.process import Process

    with rundir.created(Path(sys.argv[1]), "guest") as (directory, lock):
        process = Process(["/bin/sleep", "600"], directory, lock, ())
    process.wait_started()
    grandchild = os.fork() if "fork" in sys.argv else 0
    if grandchild or "fork" not in sys.argv:
        print(process.pid, grandchild, flush=True)
    time.sleep(600)
    """
)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("mode", ["alone", "fork"])
def test_a_test_process_that_is_killed(tmp_path: Path, mode: str, number: signal.Signals) -> None:
    """Program and directory are gone within a second, even when a forked child holds all descriptors."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), mode], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid, grandchild = map(int, parent.stdout.readline().split())
    try:
        assert is_running(pid)
        assert len(list(tmp_path.iterdir())) == 1
        parent.send_signal(number)
        parent.wait(5)
        assert within(1, lambda: not is_running(pid) and not list(tmp_path.iterdir()))
    finally:
        if grandchild:
            os.kill(grandchild, signal.SIGKILL)
        parent.stdout.close()


def test_a_start_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor and no directory: the caller cleans up what it made, the constructor what it did."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(FileNotFoundError), rundir.created(tmp_path, "guest") as (directory, lock):
        Process(["/bin/true"], directory, lock, ())
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert list(tmp_path.iterdir()) == []


def test_the_run_directory_goes_with_all_in_it(tmp_path: Path) -> None:
    """Whatever was put there: trees, links; what a link points to stays."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    base = tmp_path / "run"
    with started(base, "/bin/sleep", "60") as process:
        (process.directory / "a" / "b").mkdir(parents=True)
        (process.directory / "a" / "b" / "c").write_text("x")
        (process.directory / "link").symlink_to(outside)
    assert list(base.iterdir()) == []
    assert (outside / "kept").exists()


def test_a_program_that_is_not_wanted_after_all(tmp_path: Path) -> None:
    """Closing in any moment of the start leaves neither program nor directory."""
    for pause in (0, 0.005, 0.01, 0.015, 0.02):
        with started(tmp_path, "/bin/sleep", "61.5") as process:
            time.sleep(pause)
        assert list(tmp_path.iterdir()) == []
        assert process.exit_code == -signal.SIGKILL
    assert not [
        found for found in psutil.process_iter(["cmdline"]) if "61.5" in (found.info["cmdline"] or ())
    ]


def test_closing_is_quick(tmp_path: Path) -> None:
    """A program that resists SIGTERM does not hold up the end of a test."""
    with started(tmp_path, "/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.05; done") as process:
        process.wait_started()
        start = time.monotonic()
    assert time.monotonic() - start < 2
    assert process.pid is not None
    assert not is_running(process.pid)
    assert process.poll() == -signal.SIGKILL
