"""The built-in guest ``tiny``: a Linux kernel and an initramfs with busybox, dropbear and a command shell.

Made of the distribution's own packages, without root; the same packages give the same bytes. The initramfs is
not compressed: under TCG unpacking would cost more than copying.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvm.errors import ImageError
from pytest_kvm.images import debs, modules
from pytest_kvm.images.cache import asset, build_once, replace_whole
from pytest_kvm.images.image import Image
from pytest_kvm.images.initramfs import Initramfs

if TYPE_CHECKING:
    from pytest_kvm.images.image import Say

# The cloud kernel boots twice as fast under TCG as the general one: it is not compressed with xz.
_KERNEL = "linux-image-cloud-amd64"
_PACKAGES = ("busybox-static", "dropbear-bin")
_MODULES = (
    *(
        "virtio_pci",
        "virtio_console",
        "virtio_blk",
        "virtio_scsi",
        "virtio_net",
        "virtio_rng",
        "virtio_balloon",
    ),
    *("pvpanic_mmio", "pvpanic_pci", "qemu_fw_cfg", "vmgenid", "evdev"),
    *("sd_mod", "sr_mod", "ata_piix", "isofs", "ext4", "vfat", "nls_ascii", "nls_cp437", "af_packet"),
)
_SCRIPTS = {
    "init": "init",
    "network": "usr/lib/pytest-kvm/network",
    "lspci": "usr/bin/lspci",
    "dmidecode": "usr/sbin/dmidecode",
}
_DIRECTORIES = ("dev", "proc", "sys", "tmp", "run", "mnt", "root", "etc", "var", "usr/sbin")
_FILES = {
    "etc/passwd": "root::0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/shells": "/bin/sh\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\n",
    "etc/os-release": 'ID=tiny\nNAME="tiny"\nPRETTY_NAME="pytest-kvm tiny"\n',
}


@dataclass(frozen=True, slots=True)
class Tiny:
    """Source of the image ``tiny``."""

    name: str = "tiny"
    description: str = "Linux with busybox, dropbear and a command shell; boots in about two seconds"

    def image(self, cache: Path, say: Say) -> Image:
        """Return the image, built the first time."""
        target = self.directory(cache)
        waiting = f"waiting for another process to build {self.name}"
        build_once(target, lambda place: build_from_packages(place, say), waiting=lambda: say(waiting))
        return _describe(target)

    def directory(self, cache: Path) -> Path:
        """Return where it is built: another place when what goes into it besides packages changes."""
        digest = hashlib.sha256()
        for name in ("shell", *(f"tiny/{name}" for name in _SCRIPTS)):
            digest.update(asset(name).read_bytes())
        digest.update(Path(__file__).read_bytes())
        return cache / "images" / f"{self.name}-{digest.hexdigest()[:12]}"

    def build_from_files(
        self, cache: Path, *, kernel: Path, busybox: Path, modules_tree: Path | None, say: Say
    ) -> Image:
        """Build it from a kernel and a static busybox of the user's, in place of what is there.

        :param modules_tree: ``lib/modules/RELEASE`` of the kernel, if its virtio drivers are modules.
        :raise ImageError: when one of them cannot be used.
        """
        target = self.directory(cache)
        target.parent.mkdir(parents=True, exist_ok=True)
        for path in (kernel, busybox):
            if not path.is_file():
                raise ImageError(f"{path}: no such file")
        say(f"building {self.name} from {kernel} and {busybox}")
        inputs = [str(kernel), str(busybox)]
        replace_whole(target, lambda place: _write(place, kernel, busybox, modules_tree, None, inputs))
        return _describe(target)


TINY = Tiny()


def build_from_packages(place: Path, say: Say) -> None:
    """Build into an empty directory."""
    work = place / "work"
    work.mkdir()
    versions = debs.fetch((_KERNEL, *_PACKAGES), work, say)
    root = work / "root"
    say("packing the initramfs")
    kernel, tree, busybox = (_one(root, name) for name in ("boot/vmlinuz-*", "lib/modules/*", "bin/busybox"))
    _write(place, kernel, busybox, tree, root, versions)
    shutil.rmtree(work)


def _write(
    place: Path, kernel: Path, busybox: Path, tree: Path | None, root: Path | None, inputs: list[str]
) -> None:
    shutil.copyfile(kernel, place / "vmlinuz")
    archive = Initramfs()
    _add_base(archive, busybox)
    if tree is not None:
        _add_modules(archive, tree)
    if root is not None:
        _add_dropbear(archive, root)
    (place / "initramfs").write_bytes(archive.to_bytes())
    sums = {
        name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in ("vmlinuz", "initramfs")
    }
    manifest = {"inputs": inputs, "sha256": sums, "ssh": root is not None}
    (place / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _add_base(archive: Initramfs, busybox: Path) -> None:
    for name in _DIRECTORIES:
        archive.directory(name)
    for name in ("bin", "sbin", "lib", "lib64"):
        archive.symlink(name, f"usr/{name}")
    archive.character_device("dev/console", 5, 1)
    archive.file("usr/bin/busybox", busybox.read_bytes(), 0o755)
    for applet in _applets(busybox):
        archive.symlink(f"usr/bin/{applet}", "busybox")
    for name, text in _FILES.items():
        archive.file(name, text)
    for name, path in _SCRIPTS.items():
        archive.file(path, asset(f"tiny/{name}").read_bytes(), 0o755)
    archive.file("usr/lib/pytest-kvm/shell", asset("shell").read_bytes(), 0o755)


def _applets(busybox: Path) -> list[str]:
    """Ask busybox what it can do; it is a static program for this host's architecture."""
    applets = _output([str(busybox), "--list"]).split()
    if "sh" not in applets:
        raise ImageError(f"{busybox}: is no busybox with a shell")
    return [name for name in applets if name != "busybox"]


def _add_modules(archive: Initramfs, tree: Path) -> None:
    chosen = modules.choose(tree, _MODULES)
    base = f"usr/lib/modules/{tree.name}"
    for module in chosen.values():
        archive.file(f"{base}/{module.path}", module.data)
    archive.file(f"{base}/modules.dep", modules.dependency_list(chosen))
    archive.file(f"{base}/modules.alias", modules.alias_list(chosen))
    archive.file(f"{base}/modules.symbols", "")


def _add_dropbear(archive: Initramfs, root: Path) -> None:
    """Add the SSH server, and the libraries that its own loader finds for it."""
    dropbear, loader = _one(root, "sbin/dropbear"), _one(root, "lib*/**/ld-linux-x86-64.so.2")
    directories = ":".join(str(path) for path in root.glob("**/lib/x86_64-linux-gnu"))
    listing = _output([str(loader), "--library-path", directories, "--list", str(dropbear)])
    archive.file("usr/sbin/dropbear", dropbear.read_bytes(), 0o755)
    archive.file("usr/lib64/ld-linux-x86-64.so.2", loader.read_bytes(), 0o755)
    for name, path in re.findall(r"(\S+) => (/\S+)", listing):
        if Path(path).is_relative_to(root):
            archive.file(f"usr/lib/x86_64-linux-gnu/{name}", Path(path).read_bytes(), 0o755)


def _one(root: Path, pattern: str) -> Path:
    """Find a file of the packages, below ``/usr`` or, in older releases, beside it."""
    for directory in (root / "usr", root):
        if found := sorted(directory.glob(pattern)):
            return found[0]
    raise ImageError(f"the packages hold no {pattern}")


def _output(argv: list[str]) -> str:
    """Run a program of the guest's on this host and return what it prints."""
    try:
        result = subprocess.run(
            argv, capture_output=True, text=True, check=True, timeout=30, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise ImageError(f"{argv[0]}: does not run here: {said.strip()}") from error
    return result.stdout


def _describe(target: Path) -> Image:
    manifest = json.loads((target / "manifest.json").read_text())
    return Image(
        name="tiny",
        kernel=target / "vmlinuz",
        initrd=target / "initramfs",
        append="console=ttyS0 loglevel=5",
        machine="q35",
        memory="256M",
        channels=("shell", "ssh") if manifest["ssh"] else ("shell",),
        provision="fw_cfg",
        boot_timeout=30,
    )
