"""QEMU's last words, turned into what a user can act on."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kvm.errors import ConfigError, HostError, KvmError, LaunchError
from pytest_kvm.qemu import binary, complaints
from pytest_kvm.qemu.binary import Capabilities, Qemu

QEMU = Qemu(path=Path("/usr/bin/qemu-system-x86_64"), version=(7, 2, 22), arch="x86_64")
KNOWN = Capabilities(
    program="QEMU 7.2.22",
    machines=frozenset({"q35", "pc", "microvm"}),
    cpus=frozenset({"EPYC", "Skylake-Client"}),
    devices=frozenset({"virtio-blk-pci", "VGA"}),
    accelerators=frozenset({"tcg"}),
)


@pytest.fixture(autouse=True)
def lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have QEMU know a few names."""
    monkeypatch.setattr(binary, "capabilities", lambda _, **__: KNOWN)


def explain(words: str, *argv: str, code: int | None = 1) -> KvmError:
    return complaints.explain(["qemu", *argv], code, words, QEMU, Path("/cache"))


@pytest.mark.parametrize(
    ("words", "argv", "value", "nearest"),
    [
        (
            "qemu-system-x86_64: unsupported machine type\nUse -machine help to list supported machines\n",
            ("-machine", "q53,hpet=off"),
            "q53",
            "q35",
        ),
        (
            "qemu-system-x86_64: unsupported machine type: 'q53'\n",
            ("-machine", "q53"),
            "q53",
            "q35",
        ),
        ("qemu-system-x86_64: unable to find CPU model 'EPIC'\n", ("-cpu", "EPIC"), "EPIC", "EPYC"),
        (
            "qemu: -device virtio-blk-pc,id=x: 'virtio-blk-pc' is not a valid device model name\n",
            ("-device", "virtio-blk-pc,id=x"),
            "virtio-blk-pc",
            "virtio-blk-pci",
        ),
    ],
)
def test_a_name_that_this_qemu_does_not_know(
    words: str, argv: tuple[str, ...], value: str, nearest: str
) -> None:
    """The value is named with the nearest one that would do."""
    error = explain(words, *argv)
    assert isinstance(error, ConfigError)
    assert f'"{value}"' in str(error)
    assert f'"{nearest}"' in str(error)
    assert "\n" not in str(error)


def test_any_other_complaint() -> None:
    """QEMU's own words, its exit code, and the command to try by hand."""
    error = explain("warning: x\nqemu: bad option\n", "-name", "a b", code=1)
    assert isinstance(error, LaunchError)
    assert str(error) == "QEMU ended at once (exit code 1): qemu: bad option"
    assert error.argv == ("qemu", "-name", "a b")
    assert error.__notes__ == ["The command was:\nqemu -name 'a b'"]


@pytest.mark.parametrize("code", [159, -31])
def test_the_sandbox_says_nothing_itself(code: int) -> None:
    """A violation of seccomp's rules ends QEMU without a word, so we say it."""
    error = explain("", code=code)
    assert isinstance(error, LaunchError)
    assert "its seccomp sandbox stopped it" in str(error)


def test_a_known_name_is_not_blamed() -> None:
    """When QEMU's lists have the name after all, its own words count."""
    assert isinstance(explain("unable to find CPU model 'EPYC'", "-cpu", "EPYC"), LaunchError)


def test_lists_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """A QEMU too broken to be asked still gets its own words shown."""

    def broken(qemu: Qemu, *, cache: Path) -> Capabilities:
        raise HostError("QEMU did not answer")

    monkeypatch.setattr(binary, "capabilities", broken)
    error = explain("unable to find CPU model 'EPIC'\n", "-cpu", "EPIC")
    assert isinstance(error, LaunchError)
    assert "unable to find CPU model" in str(error)


def test_the_machine_of_a_users_own_words() -> None:
    """The type may stand in ``-M``, and ``-machine`` may come again for a property alone."""
    argv = ("-machine", "q35", "-machine", "pflash0=flash0", "-M", "micro,x=y")
    assert '"microvm"' in str(explain("unsupported machine type", *argv))


def test_a_machine_type_that_is_nowhere_on_the_command_line() -> None:
    """Odd words do not turn into another exception."""
    assert isinstance(explain("unsupported machine type"), KvmError)
