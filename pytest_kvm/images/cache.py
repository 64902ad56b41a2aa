"""Where built images, keys and verdicts are kept, and how something is built there once and whole."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_BUILD_TIMEOUT = 3600.0


def directory() -> Path:
    """Return the user's cache directory for pytest-kvm, made if need be: ``~/.cache/pytest-kvm``."""
    from platformdirs import user_cache_path

    path = user_cache_path("pytest-kvm")
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def asset(name: str) -> Path:
    """Return the path of one of the files that guests are made of.

    They lie beside the package in a source tree and inside it when installed from a wheel.
    """
    package = Path(__file__).parents[1]
    for root in (package / "assets", package.parent / "assets"):
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(f"pytest-kvm is not installed whole: {name} is missing")


def build_once(target: Path, build: Callable[[Path], None], *, waiting: Callable[[], None]) -> Path:
    """Return ``target``, a directory, after building it if nobody has yet.

    Of several processes one builds; the others wait. ``build`` fills an empty directory beside the target,
    which takes the target's name when it is complete and vanishes when it is not.

    :param waiting: called once when another process is building.
    """
    if target.is_dir():
        return target
    from filelock import FileLock, Timeout  # costs as much as all other imports, and is seldom needed

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire(timeout=_BUILD_TIMEOUT)
    try:
        if not target.is_dir():
            _remove_leftovers(target)
            replace_whole(target, build)
    finally:
        lock.release()
    return target


def replace_whole(target: Path, build: Callable[[Path], None]) -> None:
    """Have ``build`` fill a directory, and put it in place of the target only when that went well."""
    unfinished = Path(tempfile.mkdtemp(prefix=_unfinished_prefix(target), dir=target.parent))
    try:
        build(unfinished)
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _unfinished_prefix(target: Path) -> str:
    return f".{target.name}.unfinished-"


def _remove_leftovers(target: Path) -> None:
    """Remove what a killed build left; nobody else builds while the lock is held."""
    for leftover in target.parent.glob(_unfinished_prefix(target) + "*"):
        shutil.rmtree(leftover, ignore_errors=True)
