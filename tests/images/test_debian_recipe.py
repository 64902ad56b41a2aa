"""The recipe for debian-12, with shell scripts as its tools: it asks first and leaves nothing behind."""

from __future__ import annotations

import os
import platform
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from pytest_kvm.errors import HostError, ImageError
from pytest_kvm.images import debian

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType

    Tool = Callable[[str, str], None]

RUN_THE_REST = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Put shell scripts before the host's tools; those of an able host are there already."""
    directory = tmp_path / "bin"
    directory.mkdir()
    keyring = tmp_path / "keyring.gpg"
    keyring.touch()
    monkeypatch.setattr(debian, "KEYRING", keyring)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")

    def write(name: str, script: str) -> None:
        path = directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    for name in ("mmdebstrap", "apt-get", "apt-config", "qemu-img"):
        write(name, "exit 0")
    write("unshare", RUN_THE_REST)
    return write


@pytest.fixture
def target(tmp_path: Path, tool: Tool) -> Path:
    """Give a path for the image, in a directory of its own."""
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache" / "debian-12.qcow2"


def without(monkeypatch: pytest.MonkeyPatch, *programs: str) -> None:
    """Make programs look missing."""
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name in programs else which(name))


def test_missing_tools_are_named_with_their_packages(
    target: Path, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message names every missing tool and the one command that installs them all."""
    without(monkeypatch, "mmdebstrap", "qemu-img")
    said: list[str] = []
    with pytest.raises(HostError) as error:
        debian.build(target, said.append)
    assert str(error.value) == (
        "to build debian-12, this host lacks mmdebstrap, qemu-img: apt-get install mmdebstrap qemu-utils"
    )
    assert said == []
    assert list(target.parent.iterdir()) == []


def test_a_user_without_a_namespace_is_told_how_to_get_one(
    tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may build too, with a range of owners; the message says how to get it."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    tool("unshare", "exit 1")
    without(monkeypatch, "newuidmap")
    with pytest.raises(HostError, match=r"lacks root, or user namespaces.*install uidmap; .*usermod --add"):
        debian.check_host()


def test_another_architecture_is_refused(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its packages could not be configured on this host."""
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(HostError, match=r"an x86-64 host \(this is riscv64\)$"):
        debian.check_host()


def test_an_able_host_passes(tool: Tool) -> None:
    """Nothing is raised when nothing is missing."""
    debian.check_host()


def test_a_failing_tool_leaves_its_last_words_and_no_file(target: Path, tool: Tool) -> None:
    """The error names the tool and carries the end of what it said; the directory is as it was."""
    tool("mmdebstrap", "seq 1 9; echo 'E: no such package' >&2; exit 25")
    said: list[str] = []
    with pytest.raises(ImageError) as error:
        debian.build(target, said.append)
    assert str(error.value) == "building debian-12 failed: mmdebstrap ended with exit code 25"
    assert error.value.__notes__ == ["mmdebstrap said last:\n6\n7\n8\n9\nE: no such package"]
    assert said == ["installing the packages of Debian 12"]
    assert list(target.parent.iterdir()) == []


def test_a_failure_late_in_the_build_keeps_the_image_that_was_there(target: Path, tool: Tool) -> None:
    """What an earlier build made stays as it is until the new one is complete."""
    target.write_text("the image of last month")
    with pytest.raises(ImageError, match=r"assemble\.sh ended with exit code"):
        debian.build(target, lambda _: None)
    assert [path.read_text() for path in target.parent.iterdir()] == ["the image of last month"]


def test_an_interrupt_ends_the_tool_and_leaves_nothing(target: Path, tool: Tool) -> None:
    """The tool is asked to tidy up, and gone before the interrupt goes on its way."""
    tidied = target.parent.parent / "tidied"
    # Not at once: Popen must have returned
    tool("mmdebstrap", f"trap 'touch {tidied}; exit 1' TERM; sleep 0.3; kill -USR1 $PPID; sleep 20 & wait")

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            debian.build(target, lambda _: None)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert tidied.exists()
    assert list(target.parent.iterdir()) == []


def test_an_apt_that_does_not_work_is_an_image_error(target: Path, tool: Tool) -> None:
    """What apt complained of rides along."""
    tool("apt-config", "echo 'E: Syntax error' >&2; exit 100")
    with pytest.raises(ImageError, match="apt-config dump does not work on this host") as error:
        debian.build(target, lambda _: None)
    assert error.value.__notes__ == ["E: Syntax error"]
    assert list(target.parent.iterdir()) == []


MIRRORS = """\
bookworm main http://mirror.example/debian/ Debian
bookworm contrib http://mirror.example/debian/ Debian
bookworm main http://mirror.example/debian/ Debian
bookworm-updates main http://mirror.example/debian/ Debian
bookworm-security main http://mirror.example/debian-security/ Debian
trixie main http://mirror.example/debian/ Debian
bookworm main https://tools.example/apt/ A Company's Tools
bookworm main mirror+file:/etc/apt/mirrors/debian.list/ Debian
"""


def test_the_mirrors_are_those_of_the_host() -> None:
    """Only Debian's own, each suite once, and only what can be reached from another root directory."""
    assert debian.host_mirrors(MIRRORS) == [
        "deb http://mirror.example/debian/ bookworm main",
        "deb http://mirror.example/debian/ bookworm-updates main",
        "deb http://mirror.example/debian-security/ bookworm-security main",
    ]


@pytest.mark.parametrize(
    "listing", ["", "trixie main http://mirror.example/debian/ Debian\n", MIRRORS.split("\n", 3)[3]]
)
def test_a_host_of_another_release_gives_no_mirror(listing: str) -> None:
    """Updates alone make no release; mmdebstrap knows where to look."""
    assert debian.host_mirrors(listing) == []


def test_mirrors_count_before_their_lists_are_fetched() -> None:
    """A fresh host does not know yet whose mirror it has; the path tells."""
    listing = "".join(
        f"bookworm main http://{where}/ $(ORIGIN)\n"
        for where in ("mirror.example/debian", "tools.example/apt")
    )
    assert debian.host_mirrors(listing) == ["deb http://mirror.example/debian/ bookworm main"]


def test_the_way_to_the_mirrors_is_the_hosts() -> None:
    """Proxies and tolerances are taken over, the rest of apt's configuration is the guest's own."""
    dump = (
        'APT::Architecture "amd64";\n'
        'Acquire::http::Proxy "http://proxy.example:3128";\n'
        'Acquire::Languages "none";\n'
        'Acquire::Check-Valid-Until "false";\n'
    )
    assert debian.host_transport(dump).splitlines() == [
        'Acquire::http::Proxy "http://proxy.example:3128";',
        'Acquire::Check-Valid-Until "false";',
    ]


@pytest.mark.parametrize("stage", ["essential", "customize"])
def test_a_path_with_a_space_stays_one_word(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mmdebstrap splits its hooks as a shell would."""
    monkeypatch.setattr(debian, "asset", lambda name: tmp_path / "my project" / name)
    upload = debian._inside(stage, "customize.sh")[0]
    assert f"--{stage}-hook=upload '{tmp_path}/my project/debian-12/customize.sh' /customize.sh" == upload
