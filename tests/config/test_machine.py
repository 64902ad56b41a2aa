"""Machine types and their properties."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvm.config import Machine

types = st.from_regex(r"[a-z][a-z0-9.,-]{0,15}", fullmatch=True)
names = st.from_regex(r"[a-z][a-z0-9_-]{0,10}", fullmatch=True).filter(
    lambda name: name not in {"accel", "type", "nowait", "nodelay"}
)
values = st.text(st.characters(codec="utf-8"), max_size=10)


@given(types, st.dictionaries(names, values, max_size=5))
@settings(max_examples=200, deadline=None)
def test_a_machine_is_read_back_as_it_was_written(kind: str, given_options: dict[str, str]) -> None:
    """The string that goes to QEMU describes the same machine."""
    machine = Machine(type=kind, options=given_options)
    assert Machine.parse(str(machine)) == machine
    assert dataclasses.replace(machine) == machine


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pc", Machine(type="pc")),
        ("type=q35", Machine(type="q35")),
        ("pc,usb=off", Machine(type="pc", options={"usb": "off"})),
        ("q35,smm", Machine(type="q35", options={"smm": "on"})),
    ],
)
def test_the_string_form_says_the_same(text: str, expected: Machine) -> None:
    """QEMU's words and the type's fields are two spellings of one thing."""
    assert Machine.parse(text) == expected


def test_booleans_become_qemus_words() -> None:
    """``options={"usb": False}`` is ``usb=off``."""
    assert str(Machine(type="pc", options={"usb": False})) == "pc,usb=off"  # type: ignore[dict-item]


def test_options_alone_leave_the_type_to_qemu() -> None:
    """A machine may have properties and no name."""
    assert str(Machine(options={"usb": "off"})) == "usb=off"
