"""Find QEMU on this host, and learn what it knows: its machines, CPU models, devices, accelerators.

:func:`find` answers with a :class:`Qemu`; :func:`capabilities` asks that program for its ``help``
lists, once per cache directory, so that a misspelt machine is found before any guest starts
(:func:`check_known`). :func:`running` is how such short-lived programs are started: their whole
process group is gone when the block is left.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, STDOUT
from typing import IO, TYPE_CHECKING, Literal

from pytest_kvm.errors import ConfigError, HostError, describe_exit, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MINIMUM = (7, 2, 0)  # the oldest QEMU that this project is tested with
ANSWER_WITHIN = 4.0  # seconds, for "--version" and for a "help" list; 0.03 s is usual
RHEL_QEMU = Path("/usr/libexec/qemu-kvm")

_LISTS = {"machine": "machines", "cpu": "cpus", "device": "devices", "accel": "accelerators"}
_ALIASES = {"amd64": "x86_64", "arm64": "aarch64", "ppc64le": "ppc64", "i686": "i386"}

# The distribution's ID in os-release: the command with the packages' common prefix, and the names
# that differ from QEMU's own (which Debian's packages "provide" where they do not bear them).
_INSTALL: dict[str, tuple[str, dict[str, str]]] = {
    "debian": ("apt-get install qemu-system-", {"aarch64": "arm"}),
    "fedora": ("dnf install qemu-system-", {"ppc64": "ppc", "riscv64": "riscv"}),
    "suse": ("zypper install qemu-", {"aarch64": "arm", "ppc64": "ppc", "riscv64": "extra"}),
    "arch": ("pacman -S qemu-system-", {"ppc64": "ppc", "riscv64": "riscv"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Qemu:
    """A QEMU system emulator.

    :ivar path: where it is.
    :ivar version: what it says it is.
    :ivar arch: what it emulates, in QEMU's words: ``"x86_64"``, ``"aarch64"``.
    """

    path: Path
    version: tuple[int, int, int]
    arch: str

    def __str__(self) -> str:
        return f"QEMU {'.'.join(map(str, self.version))}"

    @property
    def identity(self) -> str:
        """Name this very program: another text once the file or, behind a wrapper, the version changes."""
        return f"{_stamp(self.path)}:{self}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a QEMU knows, aliases such as ``q35`` and ``virtio-blk`` included.

    :ivar program: which QEMU this is, for messages: ``"QEMU 7.2.22"``.
    """

    program: str
    machines: frozenset[str]
    cpus: frozenset[str]
    devices: frozenset[str]
    accelerators: frozenset[str]


def host_arch() -> str:
    """Name this host's architecture in QEMU's words."""
    return _ALIASES.get(platform.machine(), platform.machine())


def find(binary: str | None = None, *, arch: str = "x86_64") -> Qemu:
    """Find a usable QEMU.

    :param binary: a path or a name on PATH; ``None`` looks for ``qemu-system-<arch>``, then, when
        ``arch`` is the host's, for RHEL's ``/usr/libexec/qemu-kvm``.
    :param arch: what it shall emulate. A binary named ``qemu-system-<other>`` emulates ``<other>``.
    :raise HostError: there is none, or it is not executable, not a QEMU, or older than :data:`MINIMUM`.
    """
    path = _locate(binary, arch)
    named = re.match(r"qemu-system-(\w+)", path.name)
    emulates = _ALIASES.get(named[1], named[1]) if named else arch
    qemu = Qemu(path=path, version=_ask_version(path, _stamp(path)), arch=emulates)
    if qemu.version < MINIMUM:
        needed = ".".join(map(str, MINIMUM))
        raise HostError(f'QEMU "{path}": {qemu} is too old, {needed} or later is needed')
    return qemu


def _locate(binary: str | None, arch: str) -> Path:
    name = str(Path(binary).expanduser()) if binary else f"qemu-system-{arch}"
    if found := shutil.which(name):
        return Path(found).absolute()
    if binary is None and arch == host_arch() and os.access(RHEL_QEMU, os.X_OK):
        return RHEL_QEMU
    if os.sep in name:
        why = "not an executable file" if Path(name).exists() else "no such file"
        raise HostError(f'QEMU "{name}": {why}')
    raise HostError(f'QEMU "{name}": not found on PATH\n{_how_to_install(arch)}')


def _how_to_install(arch: str) -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    for family in [release.get("ID", ""), *release.get("ID_LIKE", "").split()]:
        if family in {"rhel", "centos"} and arch == host_arch():
            return "to install it: dnf install qemu-kvm"
        if family in _INSTALL:
            prefix, names = _INSTALL[family]
            names = {"x86_64": "x86", "i386": "x86"} | names
            return f"to install it: {prefix}{names.get(arch, arch)}"
    return f"install QEMU's system emulator for {arch}, or name the one to use"


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"


@functools.cache
def _ask_version(path: Path, stamp: str) -> tuple[int, int, int]:  # noqa: ARG001  # part of the cache's key
    said = _ask(path, "--version")
    match = re.search(r"QEMU emulator version (\d+)\.(\d+)(?:\.(\d+))?", said)
    if match is None:
        first = (said.strip().splitlines() or [""])[0][:80]
        raise HostError(f'QEMU "{path}": not a QEMU, to --version it answered {first!r}')
    return int(match[1]), int(match[2]), int(match[3] or 0)


def capabilities(qemu: Qemu, *, cache: Path) -> Capabilities:
    """Learn what a QEMU knows: from the cache directory, or else from its own ``help`` lists.

    :param cache: a directory; made if it is not there.
    :raise HostError: QEMU did not answer.
    """
    file = cache / f"qemu-{hashlib.sha256(qemu.identity.encode()).hexdigest()[:16]}.json"
    match read_json(file):
        case {"machines": list(m), "cpus": list(c), "devices": list(d), "accelerators": list(a)}:
            lists = {"machines": m, "cpus": c, "devices": d, "accelerators": a}
        case _:
            lists = _ask_for_lists(qemu.path)
            write_json(file, lists)
    return Capabilities(program=str(qemu), **{kind: frozenset(names) for kind, names in lists.items()})


def _ask_for_lists(path: Path) -> dict[str, list[str]]:
    machines = _ask(path, "-machine", "help").partition(":\n")[2]
    cpus = _ask(path, "-cpu", "help").partition("\n\n")[0]  # the CPU flags come after
    return {
        "machines": re.findall(r"(?m)^([\w.+-]+) +\S", machines),
        "cpus": re.findall(r"(?m)^(?:x86|PowerPC|s390|) +([\w.+-]+)", cpus),
        "devices": re.findall(r'(?m)(?:^name|, alias) "(.+?)"', _ask(path, "-device", "help")),
        "accelerators": re.findall(r"(?m)^(\w+)$", _ask(path, "-accel", "help")),
    }


def check_known(kind: Literal["machine", "cpu", "device", "accel"], name: str, known: Capabilities) -> None:
    """Refuse a name that this QEMU does not know.

    :param name: as on QEMU's command line; what follows a comma is not looked at.
    :raise ConfigError: with the nearest name that it knows.
    """
    bare = name.partition(",")[0]
    names: frozenset[str] = getattr(known, _LISTS[kind])
    # No names at all: a later QEMU's list that is not understood here, so QEMU itself shall judge.
    if names and bare not in names:
        raise ConfigError(f'{kind} "{bare}": unknown to {known.program}; {did_you_mean(bare, names)}')


def _ask(path: Path, *question: str) -> str:
    asked = " ".join(question)
    try:
        with tempfile.TemporaryFile() as output, running([str(path), *question], output=output) as process:
            code = process.wait(ANSWER_WITHIN)
            said = printed(output)
    except subprocess.TimeoutExpired:
        raise HostError(f'QEMU "{path}": no answer to {asked} within {ANSWER_WITHIN:g} s') from None
    except OSError as err:
        raise HostError(f'QEMU "{path}": cannot be run ({err.strerror})') from err
    if code != 0:
        last = (said.strip().splitlines() or ["it printed nothing"])[-1][:200]
        raise HostError(f'QEMU "{path}": {asked} ended with {describe_exit(code)}: {last}')
    return said


@contextmanager
def running(
    argv: Sequence[str], *, output: IO[bytes], stdin: IO[bytes] | None = None, cwd: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for the length of a block; at its end the process group is killed and reaped.

    :param output: an open file for what it prints, complaints included; see :func:`printed`.
    :param stdin: what it reads; nothing, when ``None``.
    """
    process = subprocess.Popen(
        argv, stdin=stdin or DEVNULL, stdout=output, stderr=STDOUT, cwd=cwd, process_group=0
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def printed(output: IO[bytes]) -> str:
    """Read what a program has printed into a file."""
    output.seek(0)
    return output.read().decode(errors="replace")


def read_json(file: Path) -> object:
    """Read what :func:`write_json` wrote; ``None`` when it is missing or damaged."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None


def write_json(file: Path, data: object) -> None:
    """Write a file so that nobody ever reads half of it; its directory is made if it is not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        draft.write_text(json.dumps(data, indent=1), encoding="utf-8")
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
