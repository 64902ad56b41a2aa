"""Finding QEMU and learning what it knows, with small shell scripts as QEMU and with the real one."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from pytest_kvm.errors import ConfigError, HostError
from pytest_kvm.qemu import binary
from pytest_kvm.qemu.binary import Capabilities, Qemu, capabilities, check_known, find, running

if TYPE_CHECKING:
    from collections.abc import Callable

    Script = Callable[..., Path]

VERSION = "echo 'QEMU emulator version 9.1.0 (qemu-kvm-9.1.0-5.el9)'"

MACHINES = """\
Supported machines are:
microvm              microvm (i386)
q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-9.1)
pc-i440fx-rhel7.6.0-long-name RHEL 7.6.0 PC (default)
"""
CPUS_OF_7_2 = """\
Available CPUs:
x86 486                   (alias configured by machine type)
x86 host                  processor with all supported host features

Recognized CPUID flags:
  3dnow 3dnowext
"""
CPUS_OF_10_0 = CPUS_OF_7_2.replace("x86 ", "  ")
DEVICES = """\
Storage devices:
name "nvme", bus PCI, desc "Non-Volatile Memory Express"
name "virtio-blk-pci", bus PCI, alias "virtio-blk"
"""


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Make an executable shell script."""

    def make(body: str, name: str = "qemu") -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def helpful(script: Script, tmp_path: Path) -> Qemu:
    """Stand in for a QEMU that prints short lists, and notes each question in ``calls``."""
    body = f"""echo "$*" >> {tmp_path}/calls
case "$1" in
  --version) {VERSION} ;;
  -machine) printf %s '{MACHINES}' ;;
  -cpu) printf %s '{CPUS_OF_7_2}' ;;
  -device) printf %s '{DEVICES}' ;;
  -accel) printf 'Accelerators supported in QEMU binary:\\ntcg\\n' ;;
esac"""
    return find(str(script(body)))


def known(**names: set[str]) -> Capabilities:
    lists = {kind: frozenset(names.get(kind, ())) for kind in ("machines", "cpus", "devices", "accelerators")}
    return Capabilities(program="QEMU 7.2.22", **lists)


def is_running(pid: int) -> bool:
    """Say whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_version_is_read(script: Script) -> None:
    """A distribution's addition to the version does not disturb."""
    path = script(VERSION)
    assert find(str(path)) == Qemu(path=path, version=(9, 1, 0), arch="x86_64")
    assert str(find(str(path))) == "QEMU 9.1.0"


def test_name_tells_the_architecture(script: Script) -> None:
    """A binary called qemu-system-aarch64 emulates aarch64 even if nobody said so."""
    assert find(str(script(VERSION, "qemu-system-aarch64"))).arch == "aarch64"
    assert find(str(script(VERSION, "qemu-system-x86_64-microvm"))).arch == "x86_64"


def test_found_on_path(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a binary given, qemu-system-<arch> is looked for on PATH."""
    path = script(VERSION, "qemu-system-riscv64")
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    assert find(arch="riscv64").path == path


def test_rhel_binary_only_for_the_hosts_architecture(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """RHEL's binary off PATH is used, and only for guests of the host's own architecture."""
    monkeypatch.setattr(binary, "RHEL_QEMU", script(VERSION, "qemu-kvm"))
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert find(arch="aarch64") == Qemu(path=binary.RHEL_QEMU, version=(9, 1, 0), arch="aarch64")
    with pytest.raises(HostError, match="not found on PATH"):
        find(arch="x86_64")


@pytest.mark.parametrize(
    ("release", "arch", "command"),
    [
        ({"ID": "debian"}, "x86_64", "apt-get install qemu-system-x86"),
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, "aarch64", "apt-get install qemu-system-arm"),
        ({"ID": "fedora"}, "x86_64", "dnf install qemu-system-x86"),
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, "x86_64", "dnf install qemu-kvm"),
        ({"ID": "opensuse-leap", "ID_LIKE": "suse opensuse"}, "aarch64", "zypper install qemu-arm"),
        ({"ID": "arch"}, "aarch64", "pacman -S qemu-system-aarch64"),
    ],
)
def test_missing_names_the_package(
    release: dict[str, str], arch: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where QEMU is missing, the message says what to type on this distribution."""
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(binary, "RHEL_QEMU", Path("/nonexistent"))
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(HostError) as caught:
        find(arch=arch)
    first, second = str(caught.value).splitlines()
    assert first == f'QEMU "qemu-system-{arch}": not found on PATH'
    assert second == f"to install it: {command}"


def test_missing_on_an_unknown_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without os-release the message still says what is needed."""

    def nothing() -> dict[str, str]:
        raise FileNotFoundError

    monkeypatch.setattr(platform, "freedesktop_os_release", nothing)
    with pytest.raises(HostError, match="install QEMU's system emulator for sparc"):
        find("qemu-of-nobody", arch="sparc")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo hello", "not a QEMU, to --version it answered 'hello'"),
        ("true", "not a QEMU, to --version it answered ''"),
        ("echo broken >&2; exit 3", "--version ended with exit code 3: broken"),
        ("kill -9 $$", "--version ended with signal 9: it printed nothing"),
        ("echo 'QEMU emulator version 6.2.0'", "QEMU 6.2.0 is too old, 7.2.0 or later is needed"),
    ],
)
def test_unusable(body: str, message: str, script: Script) -> None:
    """What is no QEMU or too old is refused, quoting what it said."""
    path = script(body)
    with pytest.raises(HostError) as caught:
        find(str(path))
    assert str(caught.value) == f'QEMU "{path}": {message}'


def test_not_executable(tmp_path: Path) -> None:
    """A missing file, a file without the x bit and an executable that is no program are told apart."""
    (tmp_path / "text").write_text("text")
    (tmp_path / "odd").write_bytes(b"\0\0")
    (tmp_path / "odd").chmod(0o755)
    for name, message in {
        "nothing": "no such file",
        "text": "not an executable file",
        "odd": r"cannot be run \(Exec format error\)",
    }.items():
        with pytest.raises(HostError, match=f'^QEMU "{tmp_path}/{name}": {message}$'):
            find(str(tmp_path / name))


def test_silent_program_is_ended(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that does not answer is killed with its children, after a bounded time."""
    monkeypatch.setattr(binary, "ANSWER_WITHIN", 0.3)
    path = script(f"sleep 60 & echo $! > {tmp_path}/pid; wait")
    with pytest.raises(HostError, match=r"no answer to --version within 0\.3 s"):
        find(str(path))
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(child)


def test_running_ends_with_its_block() -> None:
    """Ctrl-C in the block leaves no process behind."""
    with tempfile.TemporaryFile() as output:
        with pytest.raises(KeyboardInterrupt), running(["sleep", "60"], output=output) as process:
            raise KeyboardInterrupt
        assert process.returncode == -9


def test_version_is_asked_once(helpful: Qemu, tmp_path: Path) -> None:
    """The same file is asked once per process, a changed file again."""
    find(str(helpful.path))
    assert (tmp_path / "calls").read_text().splitlines() == ["--version"]
    os.utime(helpful.path, ns=(1, 1))
    find(str(helpful.path))
    assert (tmp_path / "calls").read_text().splitlines() == ["--version"] * 2


def test_identity_changes_with_the_file(helpful: Qemu) -> None:
    """Another size or time is another QEMU."""
    before = helpful.identity
    assert helpful.identity == before
    os.utime(helpful.path, ns=(1, 1))
    assert helpful.identity != before


def test_lists_are_parsed(helpful: Qemu, tmp_path: Path) -> None:
    """Aliases are in, headings and CPU flags are not."""
    assert capabilities(helpful, cache=tmp_path / "cache") == Capabilities(
        program="QEMU 9.1.0",
        machines=frozenset({"microvm", "q35", "pc-i440fx-rhel7.6.0-long-name"}),
        cpus=frozenset({"486", "host"}),
        devices=frozenset({"virtio-blk-pci", "virtio-blk", "nvme"}),
        accelerators=frozenset({"tcg"}),
    )


@pytest.mark.parametrize("text", [CPUS_OF_7_2, CPUS_OF_10_0], ids=["7.2", "10.0"])
def test_cpu_list_formats(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of CPU models lost its first column between QEMU 7.2 and 10.0."""
    monkeypatch.setattr(binary, "_ask", lambda _path, *_question: text)
    assert binary._ask_for_lists(Path("qemu"))["cpus"] == ["486", "host"]


def test_lists_are_kept(helpful: Qemu, tmp_path: Path) -> None:
    """The second time the lists come from the cache; a changed QEMU is asked again."""
    first = capabilities(helpful, cache=tmp_path / "cache")
    assert capabilities(helpful, cache=tmp_path / "cache") == first
    assert len((tmp_path / "calls").read_text().splitlines()) == 1 + 4
    os.utime(helpful.path, ns=(1, 1))
    capabilities(helpful, cache=tmp_path / "cache")
    assert len((tmp_path / "calls").read_text().splitlines()) == 1 + 4 + 4


@pytest.mark.parametrize("damage", [b"", b'{"machines": ["q3', b"[]", b'{"machines": 1}', b"\xff"])
def test_damaged_cache_is_rewritten(damage: bytes, helpful: Qemu, tmp_path: Path) -> None:
    """A damaged file in the cache is no error and does not last, and no draft stays behind."""
    good = capabilities(helpful, cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(damage)
    assert capabilities(helpful, cache=tmp_path / "cache") == good
    assert list((tmp_path / "cache").iterdir()) == [file]
    assert json.loads(file.read_bytes())["accelerators"] == ["tcg"]


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("machine", "q36", 'machine "q36": unknown to QEMU 7.2.22; did you mean "q35"?'),
        ("cpu", "hosst,-vmx", 'cpu "hosst": unknown to QEMU 7.2.22; did you mean "host"?'),
        ("accel", "hvf", 'accel "hvf": unknown to QEMU 7.2.22; valid: kvm, tcg'),
    ],
)
def test_unknown_name(kind: Literal["machine", "cpu", "accel"], name: str, message: str) -> None:
    """A name that QEMU does not know is refused with the nearest one that it knows."""
    with pytest.raises(ConfigError) as caught:
        check_known(kind, name, known(machines={"pc", "q35"}, cpus={"host"}, accelerators={"kvm", "tcg"}))
    assert str(caught.value) == message


def test_known_name() -> None:
    """A known name passes with its options, and any name where the list could not be read."""
    check_known("machine", "q35,hpet=off", known(machines={"q35"}))
    check_known("device", "anything", known())


def test_real_qemu(tmp_path: Path) -> None:
    """The QEMU of this host knows what every one of its kind knows."""
    try:
        qemu = find()
    except HostError as err:
        pytest.skip(str(err).splitlines()[0])
    real = capabilities(qemu, cache=tmp_path)
    assert "q35" in real.machines
    assert {"max", "qemu64", "host"} <= real.cpus
    assert {"virtio-blk-pci", "virtio-net-pci"} <= real.devices
    assert real.accelerators & {"kvm", "tcg"}
    assert not any(name.endswith(":") for name in real.machines | real.cpus | real.devices)
