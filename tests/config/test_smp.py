"""Processors and their layout."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvm.config import Smp
from pytest_kvm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

small = st.integers(1, 8)


@st.composite
def layouts(draw: Callable[[st.SearchStrategy[int]], int]) -> Smp:
    """Make a layout whose sums are right, with any of its numbers left open."""
    parts = {name: draw(small) for name in ("sockets", "dies", "cores", "threads")}
    given = {name: value for name, value in parts.items() if draw(st.integers(0, 2))}
    room = 1
    for value in parts.values():
        room *= value
    missing = [name for name in parts if name not in given]
    # QEMU never fills in dies or threads: a layout without them has one of each.
    whole = all(parts[name] == 1 for name in missing if name in {"dies", "threads"})
    if not whole or not draw(st.integers(0, 2)):
        return Smp(**given)
    cpus = draw(st.integers(1, room))
    return Smp(cpus=cpus, maxcpus=room, **given)


@given(layouts())
@settings(max_examples=200, deadline=None)
def test_a_layout_is_read_back_as_it_was_written(smp: Smp) -> None:
    """The string that goes to QEMU describes the same layout."""
    assert Smp.parse(str(smp)) == smp
    assert dataclasses.replace(smp) == smp


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4", Smp(cpus=4)),
        ("cpus=4", Smp(cpus=4)),
        ("4,sockets=2,cores=2", Smp(cpus=4, sockets=2, cores=2)),
        ("4,sockets=1,cores=2,threads=2", Smp(cpus=4, sockets=1, cores=2, threads=2)),
        ("sockets=2,dies=2,cores=2,threads=2", Smp(sockets=2, dies=2, cores=2, threads=2)),
        ("2,maxcpus=8", Smp(cpus=2, maxcpus=8)),
    ],
)
def test_the_string_form_says_the_same(text: str, expected: Smp) -> None:
    """QEMU's words and the type's fields are two spellings of one thing."""
    assert Smp.parse(text) == expected


@pytest.mark.parametrize(
    ("smp", "count"),
    [
        (Smp(), 1),
        (Smp(cpus=3), 3),
        (Smp(sockets=2, cores=2, threads=2), 8),
        (Smp(maxcpus=8), 8),
        (Smp(cpus=2, maxcpus=8), 2),
    ],
)
def test_count_is_what_is_there_at_start(smp: Smp, count: int) -> None:
    """Processors that can only be plugged in later do not count."""
    assert smp.count == count


@pytest.mark.parametrize(
    "given",
    [
        {"cpus": 4, "sockets": 3},
        {"cpus": 3, "sockets": 2, "cores": 2},
        {"cpus": 4, "threads": 3},
        {"cpus": 8, "sockets": 2, "cores": 2},
        {"cpus": 5, "maxcpus": 4},
        {"cpus": 4, "maxcpus": 8, "sockets": 3, "cores": 2},
        {"maxcpus": 6, "sockets": 2, "cores": 2, "threads": 2},
    ],
)
def test_impossible_sums_are_refused(given: dict[str, int]) -> None:
    """QEMU would refuse the same layout, but only when it runs."""
    with pytest.raises(ConfigError, match=r"^smp: "):
        Smp(**given)


def test_strings_of_digits_become_numbers() -> None:
    """A layout from a command line or a mapping compares equal to one made of numbers."""
    assert Smp(cpus="4", sockets="2") == Smp(cpus=4, sockets=2)  # type: ignore[arg-type]
