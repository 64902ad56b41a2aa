"""Join the user's terminal and a console, as a serial terminal program would."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from typing import TYPE_CHECKING

from pexpect import EOF, TIMEOUT

if TYPE_CHECKING:
    from pytest_kvm.channels.console import Console


def join_terminal(console: Console, escape: bytes) -> None:
    """Copy keys to the console and its output here, until ``escape`` is typed or the guest is gone."""
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setraw(keyboard)
    try:
        while console.isalive() or console.buffer:
            try:
                os.write(sys.stdout.fileno(), console.read_nonblocking(1 << 16, timeout=0.02).encode())
            except TIMEOUT:
                pass
            except EOF:
                return
            if select.select([keyboard], [], [], 0)[0]:
                keys = os.read(keyboard, 1024)
                before_escape, found, _ = keys.partition(escape)
                console.send(before_escape)
                if found or not keys:
                    return
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
