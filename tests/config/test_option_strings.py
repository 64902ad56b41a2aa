"""QEMU's option strings: cut at single commas, written back so that QEMU reads the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvm.config import options
from pytest_kvm.errors import ConfigError

keys = st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True)
values = st.text(st.characters(codec="utf-8"), max_size=12)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("a,,b", ["a,b"]),
        ("a,,,b", ["a,", "b"]),
        ("a,,,,b", ["a,,b"]),
        (",a", ["", "a"]),
        ("a,", ["a", ""]),
        ("file=x,,y,format=raw", ["file=x,y", "format=raw"]),
    ],
)
def test_only_single_commas_cut(text: str, parts: list[str]) -> None:
    """Two commas are one comma of the value, read from the left as QEMU does."""
    assert options.split(text) == parts


def test_a_first_word_has_the_implied_key() -> None:
    """``pc,usb=off`` is ``type=pc,usb=off``."""
    assert options.parse("pc,usb=off", implied="type") == {"type": "pc", "usb": "off"}


def test_a_later_word_is_a_switch() -> None:
    """``server`` is ``server=on``, and ``nowait`` and ``nodelay`` are what QEMU still makes of them."""
    assert options.parse("socket,server,nowait,nodelay", implied="backend") == {
        "backend": "socket",
        "server": "on",
        "wait": "off",
        "delay": "off",
    }


def test_a_repeated_key_becomes_a_list() -> None:
    """``hostfwd`` may be given any number of times, and the order stays."""
    assert options.parse("user,hostfwd=a,hostfwd=b,hostfwd=c", implied="type") == {
        "type": "user",
        "hostfwd": ["a", "b", "c"],
    }


def test_a_value_may_hold_equal_signs() -> None:
    """Only the first ``=`` of an item separates."""
    assert options.parse("append=root=/dev/vda") == {"append": "root=/dev/vda"}


@given(st.one_of(st.none(), values), st.dictionaries(keys, st.one_of(values, st.lists(values, min_size=2))))
@settings(max_examples=200, deadline=None)
def test_what_is_written_is_read_back(first: str | None, given_options: dict[str, str | list[str]]) -> None:
    """Whatever the values hold, commas above all, they come back."""
    if first is not None and "=" in first:
        first = first.replace("=", "-")
    text = options.join(first, given_options)
    expected = ({} if first is None or not text else {"": first}) | given_options
    items: dict[str, str | list[str]] = {}
    for index, item in enumerate(options.split(text)):
        key, _, value = ("", "", item) if index == 0 and first is not None else item.partition("=")
        known = items.get(key)
        items[key] = value if known is None else [*(known if isinstance(known, list) else [known]), value]
    assert items == expected


def test_booleans_are_written_as_switches_and_none_is_left_out() -> None:
    """``True`` is ``on``, ``False`` is ``off``, ``None`` is QEMU's choice."""
    assert options.join("user", {"restrict": True, "ipv6": False, "id": None}) == "user,restrict=on,ipv6=off"


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("512M", 536870912),
        (512, 536870912),
        ("512", 536870912),
        ("1g", 1 << 30),
        ("1.5G", 1610612736),
        ("2GiB", 2 << 30),
        ("2GB", 2 << 30),
        ("64K", 65536),
        ("1048576b", 1048576),
        ("1T", 1 << 40),
        (" 1G ", 1 << 30),
    ],
)
def test_sizes_are_binary(value: object, size: int) -> None:
    """A size means what QEMU means: powers of two, MiB where nothing is said."""
    assert options.size_in_bytes(value, "memory") == size


@given(st.integers(1, (1 << 59) - 1))
@settings(max_examples=200, deadline=None)
def test_a_size_survives_its_canonical_form(size: int) -> None:
    """No byte is lost by writing a size with the largest suffix that keeps it whole."""
    text = options.canonical_size(size, "size", default_unit="b")
    assert options.size_in_bytes(text, "size") == size


@given(st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_no_text_breaks_the_readers(text: str) -> None:
    """What is no size, number, switch or option string is a ConfigError, never another exception."""
    for read in (
        lambda: options.parse(text),
        lambda: options.size_in_bytes(text, "x"),
        lambda: options.number(text, "x"),
        lambda: options.boolean(text, "x"),
        lambda: options.path(text, "x"),
    ):
        try:
            read()
        except ConfigError as error:
            assert str(error)  # noqa: PT017  # any other exception fails the test


@pytest.mark.parametrize("value", ["9" * 400, "9" * 5000, "1." + "0" * 50, "1e3G", "٤G"])
def test_monstrous_sizes_are_refused(value: str) -> None:
    """A size that no computer has is refused rather than computed."""
    with pytest.raises(ConfigError, match="is not a size"):
        options.size_in_bytes(value, "memory")
