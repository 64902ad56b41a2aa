"""One test, many guests: the marker's fields, and a test's runs over the values of the options.

A dimension is a fixture (``kvm_smp``) that says what the marker says, or else the option. When the option has
several values, the hidden fixture behind it is parametrized; a test that pins the dimension by marker, by
``parametrize`` or by a fixture of its own does not use the hidden fixture, so it runs once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_kvm.plugin.options import DIMENSIONS, known_to_host, setting

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER_HELP = "kvm(**fields): fields of GuestConfig for this test's guests, such as cpu, smp, memory, drives"


def hidden_fixture(dimension: str) -> str:
    """Name the fixture that holds the command line's value of a dimension."""
    return f"_kvm_{dimension}_option"


_GUESTS = {"guest_config", *map(hidden_fixture, DIMENSIONS), *(f"kvm_{name}" for name in DIMENSIONS)}


def marker_fields(node: pytest.Item) -> dict[str, Any]:
    """Merge a test's ``kvm`` markers: the function's go before the class's, and those before the module's."""
    merged: dict[str, Any] = {}
    for mark in node.iter_markers("kvm"):
        for field, value in mark.kwargs.items():
            merged.setdefault(field, value)
    return merged


def generate(metafunc: pytest.Metafunc) -> None:
    """Parametrize a test over every dimension that has several values and that it does not pin."""
    if _GUESTS.isdisjoint(metafunc.fixturenames):
        return  # most tests of most suites: they shall cost nothing
    pinned = _checked_marker(metafunc.definition)
    _check_parameters(metafunc.definition)
    for dimension in DIMENSIONS:
        values = setting(metafunc.config, dimension)
        name = hidden_fixture(dimension)
        if len(values) > 1 and name in metafunc.fixturenames and dimension not in pinned:
            metafunc.parametrize(
                name, values, ids=[_id(dimension, v) for v in values], indirect=True, scope="session"
            )


def _id(dimension: str, value: str) -> str:
    return value.rpartition("/")[2] if dimension == "image" else value


def _checked_marker(node: pytest.Item) -> dict[str, Any]:
    for mark in node.iter_markers("kvm"):
        if mark.args:
            raise _refusal(node, f"takes fields only, not {mark.args[0]!r}; write kvm(smp=...)")
    given = marker_fields(node)
    if given:
        _check(node, given)
    return given


def _check_parameters(node: pytest.Item) -> None:
    """Check values that a test gives to a dimension by ``parametrize``, before any guest starts."""
    for dimension, value in _parameters(node):
        _check(node, {dimension: value})


def _parameters(node: pytest.Item) -> Iterator[tuple[str, Any]]:
    for mark in node.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs.get("argnames", "")
        values = mark.args[1] if len(mark.args) > 1 else mark.kwargs.get("argvalues", ())
        words = names.split(",") if isinstance(names, str) else list(names)
        if len(words) == 1 and (dimension := words[0].strip().removeprefix("kvm_")) in DIMENSIONS:
            if words[0].strip() != f"kvm_{dimension}":
                continue
            for value in values:
                yield (
                    dimension,
                    value.values[0] if hasattr(value, "values") and hasattr(value, "marks") else value,
                )


def _check(node: pytest.Item, given: dict[str, Any]) -> None:
    from pytest_kvm.config import GuestConfig
    from pytest_kvm.errors import KvmError

    try:
        known_to_host(node.config, GuestConfig.of(**given))
    except KvmError as error:
        raise _refusal(node, str(error)) from None


def _refusal(node: pytest.Item, why: str) -> Exception:
    return pytest.Collector.CollectError(f"{node.nodeid}: kvm marker or parameter: {why}")
