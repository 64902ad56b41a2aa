"""Disks, network cards, serial ports and NUMA nodes: what backs them on the host, what the guest sees."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_kvm.config import options
from pytest_kvm.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

CACHE_MODES = ("writeback", "none", "unsafe", "writethrough", "directsync")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)
_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Drive:
    """A disk.

    Host side: ``file`` in its ``format`` with its ``cache`` mode; with ``overlay`` (the default) writes go to
    a throwaway layer and the file is never touched. With no file, an empty disk of ``size``.
    Guest side: ``device``, ``serial``, ``bootindex``.

    :ivar format: ``"raw"`` or ``"qcow2"``; ``None`` looks at the file.
    :ivar cache: ``"writeback"``, ``"none"``, ``"unsafe"``, ``"writethrough"``, ``"directsync"``.
    :ivar size: for an empty disk, in bytes or with QEMU's binary suffixes: ``"1G"``.
    :ivar serial: what the guest reads as the disk's serial number; virtio-blk keeps 20 bytes of it.
    :ivar bootindex: place in the firmware's boot order, smallest first.
    """

    file: Path | None = None
    format: str | None = None
    size: str | None = None
    cache: str | None = None
    readonly: bool = False
    overlay: bool = True
    serial: str | None = None
    bootindex: int | None = None
    device: str = "virtio-blk-pci"
    id: str | None = None

    def __post_init__(self) -> None:
        if (self.file is None) == (self.size is None):
            raise ConfigError("drive: needs either a file or, for an empty disk, a size")
        if self.file is not None:
            object.__setattr__(self, "file", options.path(self.file, "drive: file"))
        if self.size is not None:
            size = options.canonical_size(self.size, "drive: size", default_unit="b")
            object.__setattr__(self, "size", size)
        if self.format not in {None, "raw", "qcow2"}:
            raise ConfigError(f'drive: format "{self.format}" is neither "raw" nor "qcow2"')
        if self.cache is not None:
            options.refuse_unknown([self.cache], CACHE_MODES, "drive: cache")
        if self.bootindex is not None:
            object.__setattr__(self, "bootindex", options.number(self.bootindex, "drive: bootindex"))
        for key in ("readonly", "overlay"):
            object.__setattr__(self, key, options.boolean(getattr(self, key), f"drive: {key}"))
        check_id(self.id, "drive")

    @classmethod
    def parse(cls, text: str) -> Drive:
        """Read ``data.qcow2`` or ``file=data.qcow2,format=qcow2,serial=abc``; in a name, ``,,`` is a comma.

        :raise ConfigError: for unknown options and values.
        """
        where = f'drive "{text}"'
        given = options.parse(text, implied="file")
        options.refuse_unknown(given, cls.__dataclass_fields__, where)
        values: dict[str, object] = {key: options.single(dict(given), key, where) for key in given}
        return cls(**values)  # type: ignore[arg-type]  # each value is checked in __post_init__


@dataclass(frozen=True, kw_only=True, slots=True)
class NetDev:
    """A network card.

    Host side: ``-netdev BACKEND,OPTIONS``. Guest side: ``device`` and ``mac``.

    :ivar backend: ``"user"``, ``"tap"``, ``"stream"``, ``"dgram"``, ``"socket"``, ``"hubport"``, ...
    :ivar options: the back end's options in QEMU's words; a list where one may be repeated (``hostfwd``).
    :ivar mac: the card's address; ``None`` lets QEMU choose.
    """

    backend: str = "user"
    options: options.Options = field(default_factory=dict)
    device: str = "virtio-net-pci"
    mac: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        if self.mac is not None and not _MAC.fullmatch(self.mac):
            raise ConfigError(f'netdev: mac "{self.mac}" is not an address; write 52:54:00:12:34:56')
        if not self.backend or "=" in self.backend:
            raise ConfigError(f'netdev: "{self.backend}" is no back end; write for example user,restrict=on')
        object.__setattr__(self, "options", dict(self.options))
        check_id(self.id, "netdev")

    @classmethod
    def parse(cls, text: str) -> NetDev:
        """Read ``user,restrict=on``; ``model=e1000`` (or ``device=``), ``mac=`` and ``id=`` are the card's.

        :raise ConfigError: for an option without a name, or a card's option given twice.
        """
        where = f'netdev "{text}"'
        given = options.parse(text, implied="type")
        backend = options.single(given, "type", where) or ""
        model = options.single(given, "model", where)
        device = options.single(given, "device", where) or model or "virtio-net-pci"
        mac, id_ = options.single(given, "mac", where), options.single(given, "id", where)
        return cls(backend=backend, options=given, device=device, mac=mac, id=id_)


@dataclass(frozen=True, kw_only=True, slots=True)
class Serial:
    """A further serial port; the first, the console, is always there.

    Host side: ``backend``. ``"socket"`` (the default) is drained, logged and handed to the test as
    ``guest.consoles[id]``; ``"pty"``, ``"file"`` and ``"null"`` are QEMU's own. Guest side: ``device``.

    :ivar path: for ``"file"``, where the output goes.
    """

    backend: str = "socket"
    path: Path | None = None
    device: str = "isa-serial"
    id: str | None = None

    def __post_init__(self) -> None:
        options.refuse_unknown([self.backend], ("socket", "pty", "file", "null"), "serial: backend")
        if (self.backend == "file") != (self.path is not None):
            raise ConfigError(f'serial: a path goes with the back end "file", here is "{self.backend}"')
        if self.path is not None:
            object.__setattr__(self, "path", options.path(self.path, "serial: path"))
        check_id(self.id, "serial")

    @classmethod
    def parse(cls, text: str) -> Serial:
        """Read ``socket``, ``pty``, ``null`` or ``file:PATH``, with ``,device=`` and ``,id=`` after it.

        :raise ConfigError: for unknown options and back ends.
        """
        given = options.parse(text, implied="backend")
        options.refuse_unknown(given, cls.__dataclass_fields__, f'serial "{text}"')
        values: dict[str, object] = {
            key: options.single(dict(given), key, f'serial "{text}"') for key in given
        }
        backend, colon, path = str(values.get("backend", "socket")).partition(":")
        if colon:
            values |= {"backend": backend, "path": path}
        return cls(**values)  # type: ignore[arg-type]  # each value is checked in __post_init__


@dataclass(frozen=True, kw_only=True, slots=True)
class Numa:
    """``-numa``: a node with its processors and memory, or another kind in QEMU's words.

    ``Numa(cpus="0-1", memory="128M")`` is a node; its memory back end is made for it.
    ``Numa.parse("dist,src=0,dst=1,val=20")`` is passed on as it is.

    :ivar kind: ``"node"``, ``"dist"``, ``"cpu"``, ``"hmat-lb"``, ``"hmat-cache"``.
    """

    kind: str = "node"
    cpus: str | None = None
    memory: str | None = None
    options: options.Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        options.refuse_unknown([self.kind], ("node", "dist", "cpu", "hmat-lb", "hmat-cache"), "numa")
        if self.memory is not None:
            object.__setattr__(self, "memory", options.canonical_size(self.memory, "numa: memory"))
        object.__setattr__(self, "options", dict(self.options))

    @classmethod
    def parse(cls, text: str) -> Numa:
        """Read QEMU's form, for example ``node,cpus=0-1,mem=128M``.

        :raise ConfigError: for an option without a name.
        """
        where = f'numa "{text}"'
        given = options.parse(text, implied="type")
        kind, memory = options.single(given, "type", where) or "node", options.single(given, "mem", where)
        cpus = (
            options.single(given, "cpus", where)
            if kind == "node" and isinstance(given.get("cpus"), str)
            else None
        )
        return cls(kind=kind, cpus=cpus, memory=memory, options=given)


def check_id(value: str | None, where: str) -> None:
    """Refuse what QEMU does not take as an identifier.

    :raise ConfigError: when it starts with no letter or holds other than letters, digits, ``-._``.
    """
    if value is not None and not _ID.fullmatch(value):
        raise ConfigError(
            f'{where}: id "{value}" must start with a letter and hold only letters, digits, -._'
        )
