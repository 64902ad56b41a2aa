"""A throwaway KVM/QEMU virtual machine for every test.

The names below are all of the public face; each is loaded when it is first used, so that having the plugin
installed costs a run without guests next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_kvm.channels.console import Console
    from pytest_kvm.channels.qmp import Qmp
    from pytest_kvm.config import Cpu, Drive, GuestConfig, Machine, NetDev, Numa, Serial, Smp
    from pytest_kvm.errors import (
        BootTimeout,
        CommandError,
        CommandTimeout,
        ConfigError,
        ConsoleTimeout,
        GuestDied,
        HostError,
        ImageError,
        KvmError,
        LaunchError,
        QmpError,
    )
    from pytest_kvm.guest import Guest, State
    from pytest_kvm.images.image import Image
    from pytest_kvm.result import Result

__all__ = [
    "Guest",
    "GuestConfig",
    "Smp",
    "Cpu",
    "Machine",
    "Drive",
    "NetDev",
    "Serial",
    "Numa",
    "Image",
    "Result",
    "Console",
    "Qmp",
    "State",
    "KvmError",
    "ConfigError",
    "HostError",
    "ImageError",
    "LaunchError",
    "GuestDied",
    "BootTimeout",
    "ConsoleTimeout",
    "CommandTimeout",
    "CommandError",
    "QmpError",
]

_HOMES = {
    "pytest_kvm.guest": ("Guest", "State"),
    "pytest_kvm.config": ("GuestConfig", "Smp", "Cpu", "Machine", "Drive", "NetDev", "Serial", "Numa"),
    "pytest_kvm.images.image": ("Image",),
    "pytest_kvm.result": ("Result",),
    "pytest_kvm.channels.console": ("Console",),
    "pytest_kvm.channels.qmp": ("Qmp",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF.get(name, "pytest_kvm.errors")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
