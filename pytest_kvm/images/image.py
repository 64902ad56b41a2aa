"""What an image is: what to boot, how to log in, and which channels it answers on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Say = Callable[[str], None]

# Ways to run a command, fastest first: commands through virtio-serial ports (assets/shell), the QEMU guest
# agent, SSH, a shell on the serial console.
CHANNELS = ("shell", "agent", "ssh")
PROVISIONS = ("cloud-init", "fw_cfg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """Something that boots. ``None`` leaves a choice to QEMU; what a test says goes before all of it.

    :ivar name: what reports call it.
    :ivar disk: a disk that is never written: each guest gets a throwaway layer over it.
    :ivar format: the disk's format: ``"qcow2"`` or ``"raw"``.
    :ivar kernel: boot this kernel directly, with ``initrd``.
    :ivar append: the kernel line; what a test appends follows it.
    :ivar firmware: ``"bios"``, ``"uefi"`` or a path.
    :ivar user: who logs in through SSH; anyone but root gets ``sudo``.
    :ivar channels: which of ``"shell"``, ``"agent"`` and ``"ssh"`` it has; ``run`` takes the first.
    :ivar provision: how it gets its host name and keys: ``"cloud-init"`` (a NoCloud seed, which also brings
        the command shell), ``"fw_cfg"`` (files of QEMU's firmware configuration device), or not at all.
    :ivar boot_timeout: seconds until it must be ready under KVM; TCG gets a multiple.
    """

    name: str
    arch: str = "x86_64"
    disk: Path | None = None
    format: str | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    append: str | None = None
    firmware: str | None = None
    machine: str | None = None
    cpu: str | None = None
    memory: str | None = None
    devices: tuple[str, ...] = ()
    user: str = "root"
    channels: tuple[str, ...] = ("ssh",)
    provision: str | None = None
    boot_timeout: float = 60.0

    @property
    def hint(self) -> str:
        """What to think of when it does not become ready."""
        if self.provision != "cloud-init" or "shell" not in self.channels:
            return ""
        declaration = "NAME = disk=PATH,channels=ssh,provision="
        return f"; cloud-init brings it, an image without is declared in kvm_images: {declaration}"


class ImageSource(Protocol):
    """What the entry-point group ``pytest_kvm.images`` holds besides plain :class:`Image` objects."""

    @property
    def description(self) -> str:
        """One line for ``pytest-kvm image list``."""

    def directory(self, cache: Path) -> Path:
        """Return where it is built; another place once it would be built differently."""

    def image(self, cache: Path, say: Say) -> Image:
        """Return the image, building it under ``cache`` first if need be.

        :param say: takes a line of progress.
        :raise HostError: when this host lacks what the build needs.
        :raise ImageError: when the build fails.
        """
