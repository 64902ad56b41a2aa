"""What one guest is: every argument of its QEMU, as frozen data that touches nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from pytest_kvm.config import options
from pytest_kvm.config.cpu import Cpu
from pytest_kvm.config.devices import Drive, NetDev, Numa, Serial
from pytest_kvm.config.machine import Machine
from pytest_kvm.config.smp import Smp
from pytest_kvm.errors import ConfigError

ACCELERATORS = ("auto", "kvm", "tcg")
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestConfig:
    """All that is known of a guest before it runs.

    Each field also takes QEMU's own option string: ``smp="4,sockets=2"``, ``machine="pc,usb=off"``,
    ``cpu="SandyBridge,+erms"``, ``netdevs=["user"]``, ``drives=["data.qcow2"]``. ``None`` leaves the choice
    to the image and then to QEMU. Change a config with :func:`dataclasses.replace`.

    :ivar name: what QEMU, the logs and the reports call the guest; unique within a test.
    :ivar image: a path, or the name of a known image; ``None`` is the built-in ``tiny``.
    :ivar arch: the guest's architecture as QEMU spells it: ``"x86_64"``.
    :ivar accel: ``"auto"`` (the default), ``"kvm"`` or ``"tcg"``.
    :ivar memory: with QEMU's binary suffixes, MiB without one: ``"512M"``, ``"2G"``.
    :ivar numa: nodes, with their processors and memory.
    :ivar drives: disks besides the image's own.
    :ivar netdevs: network cards; ``None`` is one on a closed user network, ``()`` is none.
    :ivar serials: serial ports besides the console.
    :ivar kernel: boot this kernel directly; ``initrd`` likewise.
    :ivar append: words added to the kernel line that the image brings.
    :ivar firmware: ``"bios"``, ``"uefi"`` (OVMF), or the path of a firmware image.
    :ivar uuid: the machine's UUID.
    :ivar smbios: ``-smbios`` strings: ``"type=1,manufacturer=OpenStack Foundation"``.
    :ivar rtc: ``-rtc`` string: ``"base=2014-04-01T00:00:00"``.
    :ivar boot: ``-boot`` string: ``"menu=off,strict=on"``.
    :ivar display: ``-display`` string; ``None`` is ``"none"``.
    :ivar devices: ``-device`` strings: ``"VGA"``, ``"usb-tablet,id=input0"``.
    :ivar extra_args: words added to the command line as they are.
    :ivar qemu: QEMU's program; ``None`` looks for ``qemu-system-ARCH``.
    :ivar boot_timeout: seconds, before ``timeout_scale``, until it must be ready; ``None``: the image's.
    :ivar timeout_scale: factor on every default timeout; ``None`` follows the accelerator.

    :raise ConfigError: for a value that cannot be right.
    """

    name: str | None = None
    image: str | Path | None = None
    arch: str | None = None
    machine: Machine | None = None
    accel: str | None = None
    cpu: Cpu | None = None
    smp: Smp | None = None
    memory: str | None = None
    numa: tuple[Numa, ...] = ()
    drives: tuple[Drive, ...] = ()
    netdevs: tuple[NetDev, ...] | None = None
    serials: tuple[Serial, ...] = ()
    kernel: Path | None = None
    initrd: Path | None = None
    append: str | None = None
    firmware: str | None = None
    uuid: str | None = None
    smbios: tuple[str, ...] = ()
    rtc: str | None = None
    boot: str | None = None
    display: str | None = None
    devices: tuple[str, ...] = ()
    extra_args: tuple[str, ...] = ()
    qemu: str | None = None
    boot_timeout: float | None = None
    timeout_scale: float | None = None

    if TYPE_CHECKING:

        def __init__(  # what each field takes; what it then holds is said above
            self,
            *,
            name: str | None = None,
            image: str | Path | None = None,
            arch: str | None = None,
            machine: Machine | str | Mapping[str, Any] | None = None,
            accel: str | None = None,
            cpu: Cpu | str | Mapping[str, Any] | None = None,
            smp: Smp | str | int | Mapping[str, Any] | None = None,
            memory: str | int | None = None,
            numa: Iterable[Numa | str | Mapping[str, Any]] = (),
            drives: Iterable[Drive | str | Path | Mapping[str, Any]] = (),
            netdevs: Iterable[NetDev | str | Mapping[str, Any]] | None = None,
            serials: Iterable[Serial | str | Mapping[str, Any]] = (),
            kernel: str | Path | None = None,
            initrd: str | Path | None = None,
            append: str | None = None,
            firmware: str | None = None,
            uuid: str | UUID | None = None,
            smbios: Iterable[str] = (),
            rtc: str | None = None,
            boot: str | None = None,
            display: str | None = None,
            devices: Iterable[str] = (),
            extra_args: Iterable[str] = (),
            qemu: str | None = None,
            boot_timeout: float | None = None,
            timeout_scale: float | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        for name, convert in _CONVERTERS.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, convert(value))
        self._check_ids()

    @classmethod
    def of(cls, **given: Any) -> GuestConfig:
        """Make a config from fields that may be misspelt.

        :raise ConfigError: for an unknown field, naming the nearest one, or a wrong value.
        """
        refuse_unknown_fields(given)
        return cls(**given)

    def with_(self, **given: Any) -> GuestConfig:
        """Return a copy with other values, checked as :meth:`of` does.

        :raise ConfigError: for an unknown field or a wrong value.
        """
        refuse_unknown_fields(given)
        return replace(self, **given)

    def _check_ids(self) -> None:
        seen: set[str] = set()
        ids = [drive.id for drive in self.drives]
        ids += [netdev.id for netdev in self.netdevs or ()]
        ids += [serial.id for serial in self.serials]
        for id_ in filter(None, ids):
            if id_ in seen:
                raise ConfigError(f'id "{id_}" is given to two devices; each needs its own')
            seen.add(id_)


def refuse_unknown_fields(given: Iterable[str]) -> None:
    """Refuse names that are no field of :class:`GuestConfig`.

    :raise ConfigError: for the first unknown one, naming the nearest.
    """
    options.refuse_unknown(given, (field.name for field in fields(GuestConfig)), "kvm")


def _typed(kind: type[_T], parse: Callable[[str], _T]) -> Callable[[object], _T]:
    """Convert to one of the config types from itself, a string, a number or a mapping of its fields."""

    def convert(value: object) -> _T:
        if isinstance(value, kind):
            return value
        if isinstance(value, str | int) and not isinstance(value, bool):
            return parse(str(value))
        if isinstance(value, Path) and kind is Drive:
            value = {"file": value}
        if isinstance(value, Mapping):
            options.refuse_unknown(value, (f.name for f in fields(kind)), kind.__name__)  # type: ignore[arg-type]
            try:
                return kind(**value)
            except (TypeError, ValueError, AttributeError) as error:
                raise ConfigError(f"{kind.__name__}: {dict(value)!r}: {error}") from error
        raise ConfigError(
            f"{kind.__name__.lower()}: {value!r} is neither a {kind.__name__} nor QEMU's string"
        )

    return convert


def _each(convert: Callable[[object], _T], name: str) -> Callable[[object], tuple[_T, ...]]:
    def convert_all(value: object) -> tuple[_T, ...]:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise ConfigError(f"{name}: {value!r} is not a list; write {name}=[...]")
        return tuple(convert(item) for item in value)

    return convert_all


def _text(name: str) -> Callable[[object], str]:
    def convert(value: object) -> str:
        if not isinstance(value, str) or "\0" in value:
            raise ConfigError(f"{name}: {value!r} is not a text")
        return value

    return convert


def _path(name: str) -> Callable[[object], Path]:
    def convert(value: object) -> Path:
        return options.path(value, name)

    return convert


def _seconds(name: str) -> Callable[[object], float]:
    def convert(value: object) -> float:
        try:
            number = float(str(value))
        except ValueError:
            number = 0.0
        if not 0 < number < float("inf"):
            raise ConfigError(f"{name}: {value!r} is not a number above 0")
        return number

    return convert


def _accel(value: object) -> str:
    options.refuse_unknown([str(value)], ACCELERATORS, "accel")
    return str(value)


def _uuid(value: object) -> str:
    try:
        return str(UUID(str(value)))
    except ValueError:
        raise ConfigError(f'uuid: "{value}" is not a UUID') from None


def _name(value: object) -> str:
    text = _text("name")(value)
    # It becomes a directory's name, a host name, and a word of the kernel line.
    if not text.isprintable() or not text or set(text) & set(" /") or text in {".", ".."}:
        raise ConfigError(f"name: {text!r} cannot name a guest; use letters, digits and dashes")
    return text


def _memory(value: object) -> str:
    return options.canonical_size(value, "memory")


def _image(value: object) -> str | Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ConfigError(f"image: {value!r} is neither a path nor a name")
    return value


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "name": _name,
    "image": _image,
    "arch": _text("arch"),
    "machine": _typed(Machine, Machine.parse),
    "accel": _accel,
    "cpu": _typed(Cpu, Cpu.parse),
    "smp": _typed(Smp, Smp.parse),
    "memory": _memory,
    "numa": _each(_typed(Numa, Numa.parse), "numa"),
    "drives": _each(_typed(Drive, Drive.parse), "drives"),
    "netdevs": _each(_typed(NetDev, NetDev.parse), "netdevs"),
    "serials": _each(_typed(Serial, Serial.parse), "serials"),
    "kernel": _path("kernel"),
    "initrd": _path("initrd"),
    "append": _text("append"),
    "firmware": _text("firmware"),
    "uuid": _uuid,
    "smbios": _each(_text("smbios"), "smbios"),
    "rtc": _text("rtc"),
    "boot": _text("boot"),
    "display": _text("display"),
    "devices": _each(_text("devices"), "devices"),
    "extra_args": _each(_text("extra_args"), "extra_args"),
    "qemu": _text("qemu"),
    "boot_timeout": _seconds("boot_timeout"),
    "timeout_scale": _seconds("timeout_scale"),
}
