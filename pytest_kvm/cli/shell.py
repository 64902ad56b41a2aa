"""``pytest-kvm shell``: a throwaway guest on this terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pytest_kvm.errors import HostError

if TYPE_CHECKING:
    import argparse

_FIELDS = ("image", "machine", "accel", "cpu", "smp", "memory", "kernel", "initrd", "append", "qemu")


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("shell", help="a throwaway guest on this terminal; Ctrl-] ends it")
    for field in _FIELDS:
        parser.add_argument(f"--{field}", metavar=field.upper(), help=f"as pytest's --kvm-{field}")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Boot a guest and join its console and this terminal until Ctrl-] is typed or the guest ends."""
    if not sys.stdin.isatty():
        raise HostError("shell: standard input is not a terminal; run commands with guest.run in a test")
    from pytest_kvm.config import GuestConfig
    from pytest_kvm.guest import Guest

    given = {field: value for field in _FIELDS if (value := getattr(arguments, field)) is not None}
    guest = Guest(GuestConfig.of(**given), say=lambda line: print(line, file=sys.stderr))
    with guest:
        print(f"{guest.image.name} under {guest.accel}; Ctrl-] ends it", file=sys.stderr)
        guest.console.sendline()
        guest.console.interact()
    return 0
