"""Read and write QEMU's option strings: ``word,key=value,key=value``, where ``,,`` is a comma."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvm.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SIZE = re.compile(r"(?P<number>[0-9]{1,18}(?:\.[0-9]{1,18})?)(?P<unit>[bkmgtpe]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}

Options = dict[str, str | list[str]]


def split(text: str) -> list[str]:
    """Cut an option string at its single commas and turn ``,,`` back into a comma.

    >>> split("file=a,,b,format=raw")
    ['file=a,b', 'format=raw']
    """
    parts, current, position = [], "", 0
    while position < len(text):
        if text.startswith(",,", position):
            current += ","
            position += 2
        elif text[position] == ",":
            parts.append(current)
            current = ""
            position += 1
        else:
            current += text[position]
            position += 1
    return [*parts, current] if text else []


def parse(text: str, *, implied: str | None = None) -> Options:
    """Read an option string into a dictionary; a key given several times becomes a list.

    :param implied: the key of a first word that has none, as ``type`` in ``-machine pc,usb=off``.
    :raise ConfigError: for an item without a key or with an empty one.

    A later word without ``=`` is a switch: ``server`` means ``server=on`` and, as QEMU still reads it,
    ``nowait`` means ``wait=off``.
    """
    options: Options = {}
    for index, item in enumerate(split(text)):
        key, equals, value = item.partition("=")
        if not equals:
            if index == 0 and implied is not None:
                key, value = implied, item
            elif key in {"nowait", "nodelay"}:
                key, value = key.removeprefix("no"), "off"
            else:
                value = "on"
        if not key:
            raise ConfigError(f'"{text}": an option without a name at "{item}"; write key=value')
        known = options.get(key)
        if known is None:
            options[key] = value
        else:
            options[key] = [*(known if isinstance(known, list) else [known]), value]
    return options


def join(first: str | None, options: Mapping[str, object]) -> str:
    """Write an option string; ``None`` values are left out, booleans become ``on`` and ``off``.

    >>> join("user", {"id": "net0", "restrict": True, "hostname": "a,b"})
    'user,id=net0,restrict=on,hostname=a,,b'
    """
    words = [] if first is None else [escape(first)]
    for key, value in options.items():
        items = value if isinstance(value, list | tuple) else [value]
        words += [f"{key}={escape(switch(item))}" for item in items if item is not None]
    return ",".join(words)


def escape(value: str) -> str:
    """Double the commas of a value."""
    return value.replace(",", ",,")


def switch(value: object) -> str:
    """Write a value as QEMU reads it: booleans are ``on`` and ``off``."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def single(options: Options, key: str, where: str) -> str | None:
    """Take a key that makes sense only once out of the options.

    :raise ConfigError: when it was given several times.
    """
    value = options.pop(key, None)
    if isinstance(value, list):
        raise ConfigError(f'{where}: "{key}" is given {len(value)} times; keep one')
    return value


def number(value: object, where: str, *, least: int = 0) -> int:
    """Read a whole number.

    :raise ConfigError: when it is none, or below ``least``.
    """
    text = str(value).strip()
    digits = text.isascii() and text.isdecimal() and len(text) < 19
    if isinstance(value, bool) or not digits or int(text) < least:
        raise ConfigError(f'{where}: "{value}" is not a whole number of {least} or more')
    return int(text)


def path(value: object, where: str) -> Path:
    """Read the name of a file.

    :raise ConfigError: when it is no text, empty, or cannot name a file.
    """
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ConfigError(f"{where}: {value!r} is not a path")
    return Path(value)


def boolean(value: object, where: str) -> bool:
    """Read ``on``/``off`` (also ``yes``/``no``, ``true``/``false``, a Python bool).

    :raise ConfigError: for anything else.
    """
    known = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}
    try:
        return known[str(value).lower()]
    except KeyError:
        raise ConfigError(f'{where}: "{value}" is neither "on" nor "off"') from None


def size_in_bytes(value: object, where: str, *, default_unit: str = "m") -> int:
    """Read a size as QEMU does: binary suffixes, and without one the unit that the option implies.

    >>> size_in_bytes("1.5G", "memory"), size_in_bytes(256, "memory")
    (1610612736, 268435456)

    :raise ConfigError: when it is no size, or none at all.
    """
    match = None if isinstance(value, bool) else _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ConfigError(f'{where}: "{value}" is not a size; write for example 512M or 2G')
    unit = (match["unit"] or default_unit).lower()
    number_, shift = match["number"], _UNITS[unit]
    result = int(float(number_) * (1 << shift)) if "." in number_ else int(number_) << shift
    if result <= 0:
        raise ConfigError(f'{where}: "{value}" is no room at all; write for example 512M or 2G')
    return result


def canonical_size(value: object, where: str, *, default_unit: str = "m") -> str:
    """Write a size with the largest suffix that keeps it whole.

    >>> canonical_size(1024, "memory"), canonical_size("1.5G", "memory")
    ('1G', '1536M')
    """
    size = size_in_bytes(value, where, default_unit=default_unit)
    for suffix, shift in (("T", 40), ("G", 30), ("M", 20), ("K", 10)):
        if size % (1 << shift) == 0:
            return f"{size >> shift}{suffix}"
    return f"{size}B"


def refuse_unknown(given: Iterable[str], valid: Iterable[str], where: str) -> None:
    """Refuse keys that do not exist, naming the nearest that does.

    :raise ConfigError: for the first unknown one.
    """
    known = list(valid)
    for key in given:
        if key not in known:
            raise ConfigError(f'{where}: no option "{key}"; {did_you_mean(key, known)}')
