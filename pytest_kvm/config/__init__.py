"""What a guest is: frozen data, checked when it is made, touching nothing."""

from pytest_kvm.config.cpu import Cpu
from pytest_kvm.config.devices import Drive, NetDev, Numa, Serial
from pytest_kvm.config.guest import GuestConfig, refuse_unknown_fields
from pytest_kvm.config.machine import Machine
from pytest_kvm.config.smp import Smp

__all__ = [
    "Cpu",
    "Drive",
    "GuestConfig",
    "Machine",
    "NetDev",
    "Numa",
    "Serial",
    "Smp",
    "refuse_unknown_fields",
]
