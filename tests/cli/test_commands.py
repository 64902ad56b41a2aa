"""The command ``pytest-kvm``, as a user meets it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pexpect
import pytest

from pytest_kvm.cli import main
from pytest_kvm.images import cache
from pytest_kvm.images.tiny import TINY

if TYPE_CHECKING:
    from pathlib import Path


def test_doctor_says_what_the_host_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    """One line per check; all that guests need is here, since the other tests run them."""
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines][:2] == ["QEMU", "accelerator"]
    assert all(line.startswith(("ok  ", "--  ")) for line in lines)
    assert "QEMU " in lines[0]


def test_doctor_fails_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    """A QEMU that is none fails the check, and the status says so."""
    assert main(["doctor", "--qemu", "/bin/ls"]) == 1
    assert 'FAIL QEMU         QEMU "/bin/ls": not a QEMU' in capsys.readouterr().out


def test_list_shows_what_is_built(capsys: pytest.CaptureFixture[str]) -> None:
    """Each image has its name, its size on disk, and a line of description."""
    TINY.image(cache.directory(), print)
    capsys.readouterr()
    assert main(["image", "list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert {"tiny", "debian-12"} <= set(lines)
    assert " MiB  Linux with busybox" in lines["tiny"]


def test_tiny_fits_its_size() -> None:
    """Tiny takes at most 40 MB on disk."""
    TINY.image(cache.directory(), print)
    files = list(TINY.directory(cache.directory()).iterdir())
    assert sum(path.stat().st_blocks * 512 for path in files) < 40_000_000


def test_prune_removes_what_no_test_would_use(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outdated build goes, a current one stays, --all removes both."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    current = TINY.directory(cache.directory())
    for path in (current, current.with_name("tiny-outdated")):
        path.mkdir(parents=True)
        (path / "vmlinuz").write_bytes(bytes(3 << 20))
    assert main(["image", "prune"]) == 0
    assert capsys.readouterr().out.splitlines() == ["removed tiny-outdated", "freed 3 MiB"]
    assert current.is_dir()
    assert main(["image", "prune", "--all"]) == 0
    assert not current.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["image", "build", "tony"], 'pytest-kvm: no image "tony" to build; did you mean "tiny"?'),
        (["image", "build", "tiny", "--kernel", "x"], "pytest-kvm: --kernel and --busybox go together"),
        (
            ["image", "build", "debian-12", "--kernel", "x", "--busybox", "y"],
            "pytest-kvm: --kernel and --busybox",
        ),
        (["image", "build", "tiny", "--kernel", "/no", "--busybox", "/no"], "pytest-kvm: /no: no such file"),
        (
            ["image", "build", "tiny", "--kernel", "/bin/sh", "--busybox", "/bin/false"],
            "does not run here",
        ),
        (["shell"], "pytest-kvm: shell: standard input is not a terminal"),
    ],
)
def test_errors_are_one_line(
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """What cannot be done is said on standard error, and the status is 1; nothing half-made is left."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(words) == (3 if words == ["shell"] else 1)
    error = capsys.readouterr().err
    assert message in error
    assert error.splitlines()[-1].startswith("pytest-kvm: ")
    assert len(error.splitlines()) == 1 + ("does not run" in message)  # progress, then the error
    assert not list(tmp_path.glob("pytest-kvm/images/*tiny-*"))


def test_shell_joins_the_terminal() -> None:
    """``pytest-kvm shell`` is a guest on this terminal, and Ctrl-] ends it without a trace."""
    command = [sys.executable, "-m", "pytest_kvm.cli", "shell", "--memory", "192M"]
    child = pexpect.spawn(command[0], command[1:], encoding="utf-8", timeout=90)
    try:
        child.expect("tiny under (tcg|kvm); Ctrl-] ends it")
        child.expect("tiny# ")
        child.sendline("echo he''llo from $(uname -s)")
        child.expect("hello from Linux")
        child.send("\x1d")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0
    finally:
        child.close(force=True)


def test_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    """A build that is ended in the middle leaves no image, and the next one removes what it had begun."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    words = [sys.executable, "-m", "pytest_kvm.cli", "image", "build", "tiny"]
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as build:
        assert build.stderr is not None
        assert "downloading" in build.stderr.readline()
        build.kill()
    images = tmp_path / "pytest-kvm" / "images"
    assert not [path for path in images.iterdir() if path.name.startswith("tiny-")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert "tiny: " in done.stdout
    assert [path.name for path in images.iterdir() if path.is_dir()] == [TINY.directory(images).name]
