"""Processor models and their flags."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvm.config import Cpu

# QEMU's names: models such as "Skylake-Client-v4", flags such as "hv-time" and "+avx2" is no name of one.
models = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._,-]{0,15}", fullmatch=True)
flags = st.from_regex(r"[a-z][a-z0-9_.-]{0,10}", fullmatch=True)
properties = st.text(st.characters(codec="utf-8"), min_size=1, max_size=10)


@given(models, st.dictionaries(flags, st.one_of(st.booleans(), properties), max_size=5))
@settings(max_examples=200, deadline=None)
def test_a_model_is_read_back_as_it_was_written(model: str, features: dict[str, bool | str]) -> None:
    """The string that goes to QEMU describes the same processor."""
    cpu = Cpu(model=model, features=features)
    assert Cpu.parse(str(cpu)) == cpu
    assert dataclasses.replace(cpu) == cpu


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("EPYC", {}),
        ("EPYC,+avx2", {"avx2": True}),
        ("EPYC,-avx2", {"avx2": False}),
        ("EPYC,avx2=off,erms=on", {"avx2": False, "erms": True}),
        ("EPYC,avx2", {"avx2": True}),
        ("EPYC,hv-spinlocks=0x1fff", {"hv-spinlocks": "0x1fff"}),
        ("EPYC,+avx2,-avx2", {"avx2": False}),
        ("EPYC,model-id=a,,b", {"model-id": "a,b"}),
    ],
)
def test_flags_are_read_in_all_of_qemus_spellings(text: str, features: dict[str, bool | str]) -> None:
    """``+avx2``, ``avx2`` and ``avx2=on`` are one thing, and the last word on a flag counts."""
    assert Cpu.parse(text) == Cpu(model="EPYC", features=features)


def test_flags_are_written_as_properties() -> None:
    """QEMU deprecates ``+flag``; ``flag=on`` works everywhere."""
    assert str(Cpu.parse("SandyBridge,+erms,-avx")) == "SandyBridge,erms=on,avx=off"


def test_the_flags_are_a_copy() -> None:
    """Changing the dictionary afterwards does not change the processor."""
    features: dict[str, bool | str] = {"avx2": True}
    cpu = Cpu(model="EPYC", features=features)
    features["avx2"] = False
    assert cpu.features == {"avx2": True}
