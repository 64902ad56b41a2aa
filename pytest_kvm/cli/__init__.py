"""The command ``pytest-kvm``: what this host can do, its images, and a throwaway guest on this terminal."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pytest_kvm.errors import HostError, KvmError

if TYPE_CHECKING:
    from collections.abc import Sequence

_HOST_LACKS = 3


def main(words: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    An error of ours is one line on standard error, and the status is 1, or 3 when it is this host that lacks
    something, so that a script can go on without.
    """
    arguments = _parser().parse_args(words)
    try:
        return int(arguments.run(arguments))
    except KvmError as error:
        print(f"pytest-kvm: {error}", file=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            print(note, file=sys.stderr)
        return _HOST_LACKS if isinstance(error, HostError) else 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    from pytest_kvm.cli import doctor, image, shell

    parser = argparse.ArgumentParser(prog="pytest-kvm", description="Throwaway virtual machines for tests.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (doctor, image, shell):
        module.add_command(commands)
    return parser
