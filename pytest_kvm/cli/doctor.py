"""``pytest-kvm doctor``: what this host can do, and the one command that fixes what it cannot."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from pytest_kvm.errors import HostError, KvmError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_TOOLS = {
    "qemu-img": ("disk images", "qemu-utils"),
    "dpkg-deb": ("building tiny from packages", "dpkg"),
    "mmdebstrap": ("building debian-12", "mmdebstrap"),
}


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("doctor", help="what this host can do, and how to mend what it cannot")
    parser.add_argument("--qemu", metavar="PATH", help="QEMU's program")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print one line per check; the status is 1 when guests cannot run."""
    checks: list[tuple[str, Callable[[], str], bool]] = [
        ("QEMU", lambda: _qemu(arguments.qemu), True),
        ("accelerator", lambda: _accel(arguments.qemu), True),
        ("UEFI", _uefi, False),
        *((tool, lambda tool=tool: _tool(tool), False) for tool in _TOOLS),
        ("cache", _cache, True),
    ]
    failed = False
    for name, check, needed in checks:
        try:
            sign, said = "ok  ", check()
        except KvmError as error:
            sign, said = ("FAIL" if needed else "--  "), str(error)
            failed = failed or needed
        print(f"{sign} {name:12} {said}")
    return int(failed)


def _qemu(program: str | None) -> str:
    from pytest_kvm.qemu import binary

    found = binary.find(program, arch=binary.host_arch())
    return f"{found}, {found.path}"


def _accel(program: str | None) -> str:
    from pytest_kvm.images import cache
    from pytest_kvm.qemu import accel, binary

    found = binary.find(program, arch=binary.host_arch())
    payload = cache.asset("probe/probe.bin")
    return str(accel.choose("auto", qemu=found, cpu="qemu64", cache=cache.directory(), payload=payload))


def _uefi() -> str:
    from pytest_kvm.images import firmware
    from pytest_kvm.qemu import binary

    return str(firmware.uefi(binary.host_arch(), None)[0])


def _tool(name: str) -> str:
    purpose, package = _TOOLS[name]
    found = shutil.which(name)
    if found is None:
        raise HostError(f"missing, for {purpose}; on Debian: apt-get install {package}")
    return found


def _cache() -> str:
    from pytest_kvm.images import cache

    directory = cache.directory()
    free = shutil.disk_usage(directory).free
    if free < 1 << 30:
        raise HostError(f"{directory}: only {free >> 20} MiB are free there; guests need some 1 GiB")
    return f"{directory}, {free >> 30} GiB free"
