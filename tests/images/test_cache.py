"""Building once: one builder among many, and nothing half-made."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pytest_kvm.images import cache

if TYPE_CHECKING:
    from pathlib import Path


def never() -> None:
    pytest.fail("nobody else is building")


def test_it_is_built_once(tmp_path: Path) -> None:
    """The second call returns what the first has built."""
    built: list[Path] = []

    def build(place: Path) -> None:
        built.append(place)
        assert list(place.iterdir()) == []
        (place / "file").write_text("x")

    target = tmp_path / "deep" / "image"
    for _ in range(2):
        assert cache.build_once(target, build, waiting=never) == target
    assert (target / "file").read_text() == "x"
    assert len(built) == 1
    assert built[0].parent == target.parent, "a rename must not cross file systems"


def test_threads_that_come_at_once(tmp_path: Path) -> None:
    """One builds, the others wait, and each gets a whole result."""
    builds: list[int] = []
    waits: list[int] = []
    wrong: list[object] = []

    def build(place: Path) -> None:
        builds.append(1)
        (place / "one").write_text("x")
        time.sleep(0.1)
        (place / "two").write_text("y")

    def ask() -> None:
        target = cache.build_once(tmp_path / "image", build, waiting=lambda: waits.append(1))
        names = sorted(path.name for path in target.iterdir())
        if names != ["one", "two"]:
            wrong.append(names)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(builds), wrong) == (1, [])
    assert 1 <= len(waits) <= 7


PROGRAM = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from pytest_kvm.images.cache import build_once

    def build(place):
        with Path(sys.argv[1], "builds").open("a") as log:
            log.write("built\\n")
        (place / "file").write_text("whole")
        time.sleep(float(sys.argv[2]))

    print("started", flush=True)
    target = build_once(Path(sys.argv[1], "image"), build, waiting=lambda: print("waiting", flush=True))
    print((target / "file").read_text())
    """
)


def test_processes_that_come_at_once(tmp_path: Path) -> None:
    """As with pytest-xdist's workers."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path), "0.3"], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=20)[0].split() for process in processes]
    assert [output[-1] for output in outputs] == ["whole"] * 3
    assert (tmp_path / "builds").read_text() == "built\n"


def test_a_builder_that_is_killed(tmp_path: Path) -> None:
    """What it left is removed by the next one, which builds anew."""
    killed = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), "60"], stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 10
    while not (leftovers := list(tmp_path.glob(".image.*/file"))):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    killed.kill()
    killed.communicate()
    assert leftovers[0].exists()
    cache.build_once(tmp_path / "image", lambda place: (place / "new").touch(), waiting=never)
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["new"]
    assert [path.name for path in (tmp_path / "image").iterdir()] == ["new"]


def test_a_build_that_fails(tmp_path: Path) -> None:
    """It leaves nothing behind, whatever was raised, and the next one may try."""

    def fail(place: Path) -> None:
        (place / "half").write_text("x")
        raise errors.pop()

    errors: list[BaseException] = [ValueError("broken"), KeyboardInterrupt()]
    for error in reversed(errors.copy()):
        with pytest.raises(type(error)):
            cache.build_once(tmp_path / "image", fail, waiting=never)
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    cache.build_once(tmp_path / "image", lambda place: (place / "x").touch(), waiting=never)
    assert (tmp_path / "image" / "x").exists()


def test_replacing_is_all_or_nothing(tmp_path: Path) -> None:
    """The old one stays until the new one is complete."""
    target = tmp_path / "image"
    target.mkdir()
    (target / "old").touch()

    def fail(place: Path) -> None:
        assert (target / "old").exists()
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        cache.replace_whole(target, fail)
    assert [path.name for path in target.iterdir()] == ["old"]
    cache.replace_whole(target, lambda place: (place / "new").touch())
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


def test_the_users_cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It follows the XDG rules, and is private: keys lie there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = cache.directory()
    assert path == tmp_path / "cache" / "pytest-kvm"
    assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["shell", "tiny/init", "probe/probe.S"])
def test_assets_are_found(name: str) -> None:
    """In the source tree as in an installed wheel."""
    assert os.access(cache.asset(name), os.R_OK)


def test_an_asset_that_is_missing() -> None:
    """A broken installation is called one."""
    with pytest.raises(FileNotFoundError, match=r"not installed whole: no/such is missing"):
        cache.asset("no/such")
