"""What a run says: the header's line, the consoles of a failed test, the summary's line."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import pytest

from pytest_kvm.plugin.guests import GUESTS
from pytest_kvm.plugin.home import tally
from pytest_kvm.plugin.options import setting

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from _pytest._code.code import TerminalRepr

    from pytest_kvm import Guest

_PACKAGE = Path(__file__).parents[1]
_FACTORIES = {"guest_factory", "session_guest_factory"}


def uses_guests(item: pytest.Item) -> bool:
    """Tell whether a test asks for a guest."""
    return bool(_FACTORIES & set(getattr(item, "fixturenames", ())))


def header(config: pytest.Config) -> str:
    """Say which QEMU and accelerator guests get, and why, in one line."""
    from pytest_kvm.config import Cpu
    from pytest_kvm.errors import KvmError
    from pytest_kvm.images import cache
    from pytest_kvm.qemu import accel, binary

    arch = (setting(config, "arch") or ["x86_64"])[0]
    cpu = (setting(config, "cpu") or ["qemu64"])[0]
    try:
        qemu = binary.find(setting(config, "qemu"), arch=arch)
        payload, place = cache.asset("probe/probe.bin"), cache.directory()
        verdict = accel.choose(
            setting(config, "accel"), qemu=qemu, cpu=str(Cpu.parse(cpu)), cache=place, payload=payload
        )
    except KvmError as error:
        return f"pytest-kvm: {error}"
    return f"pytest-kvm: {qemu} | {verdict} | cache {place}"


def summary(config: pytest.Config) -> str | None:
    """Say how many guests ran and how long they took to boot; nothing when none did."""
    from statistics import median

    done = tally(config)
    if not done.boots:
        return None
    count = len(done.boots)
    plural = "" if count == 1 else "s"
    return f"pytest-kvm: {count} guest{plural} booted, {median(done.boots):.2f} s each, {done.accel}"


def guests_of(item: pytest.Item) -> Iterator[Guest]:
    """Yield the guests that a test may have used: its own, and those of wider scopes."""
    for node in (item, *item.listchain()[:-1]):
        for guests in node.stash.get(GUESTS, []):
            yield from guests.made


def add_console_sections(item: pytest.Item, when: str) -> None:
    """Attach the end of each console to the report that is about to be made."""
    for guest in guests_of(item):
        guest.failed = True
        if tail := guest.console_tail():
            item.add_report_section(when, f"serial console ({guest.name})", tail)


def is_ours(error: BaseException) -> bool:
    """Tell whether an error is one of this package's."""
    from pytest_kvm.errors import KvmError

    return isinstance(error, KvmError)


@contextmanager
def to_the_point(call: pytest.CallInfo[None], excinfo: pytest.ExceptionInfo[BaseException]) -> Iterator[None]:
    """Have a report made that shows the test's own lines and what the error says, no more."""
    value, before = excinfo.value, excinfo.value.__traceback__
    kept = value.__cause__, value.__context__, value.__suppress_context__
    value.__cause__ = None
    value.__suppress_context__ = True
    call.excinfo = pytest.ExceptionInfo.from_exception(value.with_traceback(_outside_package(before)))
    try:
        yield
    finally:
        value.__cause__, value.__context__, value.__suppress_context__ = kept
        value.__traceback__ = before
        call.excinfo = excinfo


def words_only(error: BaseException) -> TerminalRepr:
    """Represent an error of a fixture by what it says; all frames would be pytest's and ours."""
    text = "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
    try:
        pytest.fail(text, pytrace=False)
    except pytest.fail.Exception as failure:
        return pytest.ExceptionInfo.from_exception(failure).getrepr(style="value")


def _outside_package(traceback: TracebackType | None) -> TracebackType | None:
    """Copy a traceback without the frames of this package and of what they called."""
    if traceback is None or _PACKAGE in Path(traceback.tb_frame.f_code.co_filename).parents:
        return None
    rest = _outside_package(traceback.tb_next)
    return TracebackType(rest, traceback.tb_frame, traceback.tb_lasti, traceback.tb_lineno)


def show_consoles(items: Sequence[pytest.Item], write: pytest.TerminalReporter) -> None:
    """Print the consoles for ``--pdb``, which shows no report sections."""
    for item in items:
        for guest in guests_of(item):
            if tail := guest.console_tail():
                write.section(f"serial console ({guest.name})")
                write.line(tail)
