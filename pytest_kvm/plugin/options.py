"""Command-line options and their ini twins: one table, resolved and checked when pytest configures itself.

``--kvm-memory`` is ``kvm_memory`` in the ini file; the command line goes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_kvm.config import GuestConfig


@dataclass(frozen=True, slots=True)
class Option:
    """One setting.

    :ivar name: without the prefix ``kvm``.
    :ivar field: the field of :class:`~pytest_kvm.GuestConfig` that it sets, if any.
    :ivar several: it may be given several times; for a dimension, each test runs once per value.
    :ivar choices: the valid values, when they are few.
    """

    name: str
    help: str
    field: str | None = None
    several: bool = False
    default: str | None = None
    choices: tuple[str, ...] = ()
    metavar: str | None = None

    @property
    def key(self) -> str:
        """Its name in the ini file and in pytest's configuration."""
        return "kvm_" + self.name.replace("-", "_")


# What tests run once per value of, in the order in which the values appear in a test's id.
DIMENSIONS = ("image", "arch", "machine", "cpu", "smp", "memory")

OPTIONS = (
    Option("image", "what guests boot: a disk's path, or a known image's name (default: tiny)", "image", several=True),
    Option("arch", "the guests' architecture: x86_64, ...", "arch", several=True),
    Option("machine", "machine type and properties: q35, pc,usb=off, ...", "machine", several=True),
    Option("cpu", "CPU model and features: EPYC,+avx2, ...", "cpu", several=True),
    Option("smp", "processors and their layout: 4,sockets=2,cores=2, ...", "smp", several=True),
    Option("memory", "memory: 512M, 2G, ...", "memory", several=True),
    Option("accel", "accelerator: kvm, tcg, or auto, which tries KVM out (default: auto)", "accel"),
    Option("qemu", "QEMU's program (default: qemu-system-ARCH)", "qemu", metavar="PATH"),
    Option("kernel", "boot this kernel directly", "kernel", metavar="PATH"),
    Option("initrd", "the initial RAM disk for it", "initrd", metavar="PATH"),
    Option("append", "words added to the kernel's command line", "append", metavar="WORDS"),
    Option("qemu-arg", "a word added to QEMU's command line as it is; may be repeated", "extra_args", several=True),
    Option("boot-timeout", "seconds until a guest must be ready", "boot_timeout", metavar="SECONDS"),
    Option("timeout-scale", "factor on every default timeout (default: 1 for kvm, 5 for tcg)", "timeout_scale"),
    Option("artifacts", "directory for logs and screenshots", default="kvm-artifacts", metavar="DIRECTORY"),
    Option(
        "keep",
        "whose logs to keep: failed, always, never (default: failed)",
        default="failed",
        choices=("failed", "always", "never"),
    ),
)  # fmt: skip

SETTINGS = pytest.StashKey[dict[str, Any]]()


def add_options(parser: pytest.Parser) -> None:
    """Register the table with pytest."""
    group = parser.getgroup("kvm", "virtual machines (pytest-kvm)")
    for option in OPTIONS:
        action = "append" if option.several else "store"
        metavar = option.metavar or option.name.rpartition("-")[2].upper()
        flag = "--kvm-" + option.name
        group.addoption(flag, action=action, dest=option.key, default=None, metavar=metavar, help=option.help)
        kind: Literal["linelist", "string"] = "linelist" if option.several else "string"
        parser.addini(option.key, option.help, type=kind, default=[] if option.several else option.default)
    parser.addini(
        "kvm_images", "known images: NAME = DISK, or NAME = disk=PATH,firmware=uefi,...", type="linelist"
    )


def resolve(config: pytest.Config) -> None:
    """Read every setting once and refuse what cannot be right.

    :raise pytest.UsageError: one line that names the option, the value and the remedy.
    """
    settings = {option.key: _value(config, option) for option in OPTIONS}
    config.stash[SETTINGS] = settings
    for option in OPTIONS:
        value = settings[option.key]
        if option.choices and value not in option.choices:
            valid = ", ".join(option.choices)
            raise pytest.UsageError(f'{_place(config, option)}: "{value}" is none of {valid}')
        if option.field is not None and value:
            _check(config, option, value)


def setting(config: pytest.Config, name: str) -> Any:
    """Return a setting: the option's value or list of values."""
    return config.stash[SETTINGS]["kvm_" + name]


def fields(config: pytest.Config) -> dict[str, Any]:
    """Return the settings that are fields of a config and no dimension."""
    named = {o.field: setting(config, o.key.removeprefix("kvm_")) for o in OPTIONS if o.field}
    return {field: value for field, value in named.items() if value and field not in DIMENSIONS}


def _value(config: pytest.Config, option: Option) -> Any:
    given = config.getoption(option.key)
    value = config.getini(option.key) if given is None else given
    if option.field in {"image", "kernel", "initrd"}:
        # Tests may change the directory later, so what is a file now is made absolute now.
        base = config.invocation_params.dir if given is not None else base_directory(config)
        return [_found(base, each) for each in value] if option.several else value and _found(base, value)
    return value or (option.default if not option.several else [])


def _found(base: Path, value: str) -> str:
    path = base / value
    return str(path) if path.exists() else value


def base_directory(config: pytest.Config) -> Path:
    """Return the directory that paths in the ini file start from."""
    return config.inipath.parent if config.inipath else config.rootpath


def _place(config: pytest.Config, option: Option) -> str:
    given = config.getoption(option.key) is not None
    return f"--kvm-{option.name}" if given else f"{config.inipath}: {option.key}"


def _check(config: pytest.Config, option: Option, value: Any) -> None:
    from pytest_kvm.config import GuestConfig
    from pytest_kvm.errors import KvmError

    together = option.several and option.field not in DIMENSIONS
    for each in [value] if together or not option.several else value:
        try:
            known_to_host(config, GuestConfig.of(**{str(option.field): each}))
        except KvmError as error:
            raise pytest.UsageError(f"{_place(config, option)}: {error}") from error


def known_to_host(config: pytest.Config, guest: GuestConfig) -> None:
    """Refuse an image, kernel, machine or CPU that this host does not have; nothing is built or started.

    :raise ConfigError: for a name that nobody knows, with the nearest one.
    :raise ImageError: for a file that is missing.
    """
    if guest.image is not None or guest.kernel is not None or guest.initrd is not None:
        from pytest_kvm.images import catalog

        declared = [line.partition("=")[0].strip() for line in config.getini("kvm_images")]
        catalog.check_found(guest, declared)
    if guest.machine is not None or guest.cpu is not None:
        _known_to_qemu(guest)


def _known_to_qemu(config: GuestConfig) -> None:
    """Refuse a machine or CPU that QEMU does not know; that there is no QEMU at all is told later."""
    from pytest_kvm.errors import HostError
    from pytest_kvm.images import cache
    from pytest_kvm.qemu import binary

    try:
        known = binary.capabilities(
            binary.find(config.qemu, arch=config.arch or "x86_64"), cache=cache.directory()
        )
    except HostError:
        return
    if config.machine is not None and config.machine.type is not None:
        binary.check_known("machine", config.machine.type, known)
    if config.cpu is not None:
        binary.check_known("cpu", config.cpu.model, known)
