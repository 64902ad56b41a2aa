"""Fixtures for this project's own tests."""

from __future__ import annotations

import time

import psutil
import pytest

# Loaded here, so that runs of pytest inside this process share these modules instead of loading their own.
import pytest_kvm.guest
import pytest_kvm.images.catalog
import pytest_kvm.images.tiny  # noqa: F401
from pytest_kvm.images import cache


class LeftoversCheck:
    """Compares what is there now with what was there when it was made."""

    def __init__(self) -> None:
        self.before = self._state()

    def __call__(self, *, within: float = 1.0) -> None:
        deadline = time.monotonic() + within
        while (more := self._state() - self.before) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not more

    @staticmethod
    def _state() -> set[str]:
        found = set()
        for process in psutil.process_iter(["cmdline", "status"]):
            words = process.info["cmdline"] or []
            ours = any("pytest_kvm/qemu/supervisor.py" in word for word in words)
            guest = any(word.startswith("socket,id=qmp,fd=") for word in words)
            if (ours or guest) and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.add(f"process {process.pid} {words[:4]}")
        run = cache.directory() / "run"
        found |= {f"directory {path.name}" for path in run.glob("*")}
        return found


@pytest.fixture
def no_leftovers() -> LeftoversCheck:
    """Give a check that no process of ours and no run directory has appeared since the test began."""
    return LeftoversCheck()
