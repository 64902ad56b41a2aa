"""Run directories: one per guest, locked by its supervisor for as long as it lives, swept when it is not."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOCK = "lock"
# A directory without a lock is being made, or was left in that instant by a killed process.
_BEING_MADE = 60.0


def create(base: Path, name: str) -> tuple[Path, int]:
    """Make a run directory, private to this user.

    :return: its path, and the descriptor that holds its lock: whoever has a copy of it owns the directory.
    """
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    while True:
        path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=base))
        with suppress(FileNotFoundError):
            lock = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (path / _LOCK).exists():
                    return path, lock
            os.close(lock)  # a sweeper was quicker


def sweep(base: Path) -> list[str]:
    """Remove the run directories that nobody owns; return their names."""
    paths = sorted(base.iterdir()) if base.is_dir() else []
    return [path.name for path in paths if _remove_ownerless(path)]


def _remove_ownerless(path: Path) -> bool:
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _BEING_MADE:
                shutil.rmtree(path, ignore_errors=True)
                return True
        return False
    except OSError:
        return False  # somebody else's
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Held until all is gone, or who is just making it would get the lock and believe it is there.
        shutil.rmtree(path, ignore_errors=True)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


@contextmanager
def created(base: Path, name: str) -> Iterator[tuple[Path, int]]:
    """Make a run directory, and remove it again when the block fails."""
    path, lock = create(base, name)
    try:
        yield path, lock
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            os.close(lock)
        raise
