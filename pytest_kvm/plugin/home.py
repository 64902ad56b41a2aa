"""What the guests of one pytest run share: declared images, where things are kept, and what was done."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pytest_kvm.plugin.options import base_directory, setting

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_kvm import Guest

_HOME = pytest.StashKey["Home"]()
_TALLY = pytest.StashKey["Tally"]()
_MARK = ".pytest-kvm"  # a directory without it is somebody else's and is never emptied


@dataclass(slots=True)
class Tally:
    """What a run's guests did, for the summary; xdist's workers send theirs to the controller.

    :ivar boots: seconds that each boot took.
    :ivar accel: the accelerator and why.
    """

    boots: list[float] = field(default_factory=list)
    accel: str = ""

    def add(self, boots: list[float], accel: str) -> None:
        """Add what another process did."""
        self.boots += boots
        self.accel = accel or self.accel

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


class Home:
    """Made when the first guest is asked for, so that a run without guests pays nothing."""

    def __init__(self, config: pytest.Config) -> None:
        from pytest_kvm.errors import KvmError
        from pytest_kvm.images import cache, catalog
        from pytest_kvm.qemu import rundir

        self._config = config
        try:
            lines = config.getini("kvm_images")
            self._images = dict(catalog.declare(line, base_directory(config)) for line in lines)
        except KvmError as error:
            raise pytest.UsageError(str(error)) from error
        rundir.sweep(cache.directory() / "run")

    @property
    def guest_arguments(self) -> dict[str, Any]:
        """What every :class:`~pytest_kvm.Guest` of this run is given."""
        return {"images": self._images, "say": self._say, "keep": setting(self._config, "keep")}

    def booted(self, guest: Guest) -> None:
        """Take note of a boot for the summary."""
        tally(self._config).add([guest.boot_seconds or 0.0], f"{guest.accel} ({guest.accel_reason})")

    def _say(self, line: str) -> None:
        """Show progress on the terminal, past pytest's capture: building an image takes a while."""
        capture = self._config.pluginmanager.getplugin("capturemanager")
        terminal = self._config.pluginmanager.getplugin("terminalreporter")
        if capture is None or terminal is None:
            return
        with capture.global_and_fixture_disabled():
            terminal.ensure_newline()
            terminal.write_line(f"pytest-kvm: {line}")


def home(config: pytest.Config) -> Home:
    """Return this run's home, made at the first call."""
    found = config.stash.get(_HOME, None)
    if found is None:
        found = config.stash[_HOME] = Home(config)
    return found


def tally(config: pytest.Config) -> Tally:
    """Return what this run's guests did so far."""
    return config.stash.setdefault(_TALLY, Tally())


def artifacts_base(config: pytest.Config) -> Path:
    """Return the directory that holds all tests' artifacts."""
    return config.rootpath / str(setting(config, "artifacts"))


def artifacts_of(config: pytest.Config, nodeid: str) -> Path:
    """Return one test's own artifact directory; it is made when something is kept."""
    plain = "".join(char if char.isalnum() or char in "._-=" else "-" for char in nodeid)
    return artifacts_base(config) / plain.strip("-")[-200:]


def empty_artifacts(config: pytest.Config) -> None:
    """Remove what earlier runs kept, in a directory that is ours."""
    base = artifacts_base(config)
    if (base / _MARK).is_file():
        for path in base.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)


def mark_artifacts(base: Path) -> None:
    """Make the base directory and mark it as ours; git shall not see it."""
    if not base.exists():
        base.mkdir(parents=True, exist_ok=True)
        (base / _MARK).touch()
        (base / ".gitignore").write_text("*\n")
