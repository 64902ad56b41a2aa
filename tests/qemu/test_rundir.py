"""Run directories: locked while somebody owns them, swept when nobody does."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from pytest_kvm.qemu import rundir


def test_a_directory_is_private_and_locked(tmp_path: Path) -> None:
    """Nobody else may look inside, and nobody else gets the lock."""
    base = tmp_path / "deep" / "run"
    path, lock = rundir.create(base, "guest0")
    assert path.parent == base
    assert path.name.startswith("guest0-")
    assert path.stat().st_mode & 0o777 == 0o700
    assert base.stat().st_mode & 0o777 == 0o700
    other = os.open(path / "lock", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not os.get_inheritable(lock)
    os.close(other)
    os.close(lock)


def test_two_guests_of_one_name_do_not_share(tmp_path: Path) -> None:
    """The name is for people; the directory is one's own."""
    (one, lock_one), (two, lock_two) = rundir.create(tmp_path, "guest"), rundir.create(tmp_path, "guest")
    assert one != two
    os.close(lock_one)
    os.close(lock_two)


def test_a_sweep_takes_what_nobody_owns(tmp_path: Path) -> None:
    """A free lock is an orphan; a held one is not touched."""
    orphan, lock = rundir.create(tmp_path, "orphan")
    (orphan / "sub").mkdir()
    (orphan / "sub" / "disk.qcow2").write_bytes(b"x")
    os.close(lock)
    owned, lock = rundir.create(tmp_path, "owned")
    assert rundir.sweep(tmp_path) == [orphan.name]
    assert not orphan.exists()
    assert (owned / "lock").exists()
    os.close(lock)
    assert rundir.sweep(tmp_path) == [owned.name]
    assert rundir.sweep(tmp_path) == []


def test_a_copy_of_the_lock_owns_the_directory(tmp_path: Path) -> None:
    """Ownership passes on with the descriptor, as to the supervisor."""
    path, lock = rundir.create(tmp_path, "guest")
    copy = os.dup(lock)
    os.close(lock)
    assert rundir.sweep(tmp_path) == []
    os.close(copy)
    assert rundir.sweep(tmp_path) == [path.name]


def test_a_directory_that_is_being_made_is_left_alone(tmp_path: Path) -> None:
    """Without a lock file it is young, or the remains of a process killed in that instant a minute ago."""
    young, old = tmp_path / "young-1", tmp_path / "old-1"
    young.mkdir()
    old.mkdir()
    os.utime(old, (time.time() - 120,) * 2)
    assert rundir.sweep(tmp_path) == ["old-1"]
    assert young.exists()


def test_what_is_no_run_directory_is_left_alone(tmp_path: Path) -> None:
    """A stray file is not ours, and a base that does not exist is empty."""
    (tmp_path / "file").write_text("x")
    assert rundir.sweep(tmp_path) == []
    assert rundir.sweep(tmp_path / "absent") == []


def test_a_failing_block_leaves_nothing(tmp_path: Path) -> None:
    """Neither the directory nor the descriptor of its lock survives, whatever was raised."""

    def fail(error: type[BaseException]) -> None:
        with rundir.created(tmp_path, "guest") as (path, _):
            (path / "half").write_text("x")
            raise error

    open_before = len(list(Path("/proc/self/fd").iterdir()))
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            fail(error)
    assert list(tmp_path.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


def test_a_block_that_ends_well_keeps_the_directory(tmp_path: Path) -> None:
    """From then on it belongs to whoever has the lock."""
    with rundir.created(tmp_path, "guest") as (path, lock):
        pass
    assert rundir.sweep(tmp_path) == []
    assert path.is_dir()
    os.close(lock)


def test_a_lock_given_away_in_the_block_is_no_obstacle(tmp_path: Path) -> None:
    """A start that failed after passing on the lock still cleans up."""

    def fail() -> None:
        with rundir.created(tmp_path, "guest") as (_, lock):
            os.close(lock)
            raise ValueError("late")

    with pytest.raises(ValueError, match="late"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_sweepers_and_makers_do_not_hurt_each_other(tmp_path: Path) -> None:
    """What was made stays until it is given up, however many sweep at the same time."""
    end = time.monotonic() + 1
    failures: list[str] = []
    made = 0

    def sweep() -> None:
        while time.monotonic() < end:
            try:
                rundir.sweep(tmp_path)
            except OSError as error:
                failures.append(f"sweep: {error!r}")

    def make() -> None:
        nonlocal made
        while time.monotonic() < end:
            path, lock = rundir.create(tmp_path, "guest")
            made += 1
            failures.extend("an owned one was swept" for _ in range(3) if not (path / "lock").exists())
            try:
                (path / "file").write_bytes(b"x")
            except OSError as error:
                failures.append(f"make: {error!r}")
            os.close(lock)

    threads = [threading.Thread(target=target) for target in (sweep, sweep, make, make)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rundir.sweep(tmp_path)
    assert failures == []
    assert made > 10
    assert [path for path in tmp_path.iterdir() if (path / "lock").exists()] == []


def test_a_sweeper_holds_the_lock_while_it_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A maker that was slow to lock must not believe that it owns what is about to go."""
    path, lock = rundir.create(tmp_path, "orphan")
    os.close(lock)
    held: list[bool] = []

    def remove(victim: Path, *, ignore_errors: bool) -> None:
        rival = os.open(victim / "lock", os.O_RDWR)
        try:
            fcntl.flock(rival, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.append(False)
        except BlockingIOError:
            held.append(True)
        finally:
            os.close(rival)

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", remove)
        rundir.sweep(tmp_path)
    assert held == [True]
    assert path.exists()
