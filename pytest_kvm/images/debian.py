"""Build the guest ``debian-12``: a real Debian with systemd, GRUB on UEFI, cloud-init, SSH and guest agent.

mmdebstrap installs the packages from the mirrors that the host's own apt uses; two scripts in
``assets/debian-12`` turn them into a cloud image from the inside, a third makes a disk of the result. No
loop device, no mount, and no root where the user may have a user namespace. What the tools say goes to a
log beside the unfinished image; its end rides on the error.

The kernel is Debian's general one. The cloud kernel has no driver for ``vmgenid`` (clones would draw the
same random numbers), none for AHCI (the disks and CDs of a plain q35), the watchdogs, USB, e1000 or a
display.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_kvm.errors import HostError, ImageError, describe_exit
from pytest_kvm.images.cache import asset, build_once
from pytest_kvm.images.image import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_kvm.images.image import Say

SUITE = "bookworm"
CONSOLES = "console=tty0 console=ttyS0,115200"
"""As in customize.sh, for a kernel that is booted directly."""

DISK_MIB = 4096
"""Size that the guest sees. The file is sparse, and cloud-init grows the root into a larger overlay."""

PACKAGES = (
    "linux-image-amd64",
    "initramfs-tools",
    "zstd",
    "grub2-common",
    "systemd-sysv",
    "systemd-resolved",
    "libpam-systemd",
    "dbus",
    "udev",
    "kmod",
    "cloud-init",
    "cloud-guest-utils",
    "netplan.io",
    "openssh-server",
    "qemu-guest-agent",
    "sudo",
    "ca-certificates",
    "e2fsprogs",
    "iproute2",
    "iputils-ping",
    "less",
    "netbase",
)
BOOT_PACKAGES = ("dosfstools", "grub-efi-amd64-signed", "mtools", "shim-signed")
"""Needed to make the EFI partition, unpacked for that and not installed."""

EXCLUDED = (
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    # Drivers of hardware that QEMU does not have
    *(
        f"/lib/modules/*/kernel/{drivers}/*"
        for drivers in (
            "drivers/bluetooth",
            "drivers/comedi",
            "drivers/gpu/drm/amd",
            "drivers/gpu/drm/i915",
            "drivers/gpu/drm/nouveau",
            "drivers/gpu/drm/radeon",
            "drivers/iio",
            "drivers/infiniband",
            "drivers/media",
            "drivers/net/wireless",
            "drivers/platform",
            "drivers/staging",
            "net/bluetooth",
            "sound/soc",
        )
    ),
)
INCLUDED = ("/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias")

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
NEEDED = {
    "mmdebstrap": "mmdebstrap",
    "apt-get": "apt",
    "tar": "tar",
    "unshare": "util-linux",
    "qemu-img": "qemu-utils",
}
"""Host programs, and the Debian packages they come from."""

_AS_ROOT = ("unshare", "--map-root-user", "--map-auto", "--")
"""How a user becomes root of a namespace that has all the owners a file system needs."""
_SCRIPTS = ("prepare.sh", "customize.sh", "assemble.sh")
_MIRROR = "$(RELEASE) $(COMPONENT) $(REPO_URI) $(ORIGIN)"
"""What ``apt-get indextargets`` is to print of each package list that the host uses."""
_TRANSPORT = re.compile(r"Acquire::(https?::|Check-|Retries|ForceIPv)")
_LAST_WORDS = 5
_GRACE = 30.0
"""Seconds that mmdebstrap gets to unmount and remove what it has begun."""


@dataclass(frozen=True, slots=True)
class Debian12:
    """Source of the image ``debian-12``."""

    description: str = "Debian 12 with systemd, GRUB on UEFI, cloud-init, SSH and the guest agent"

    def directory(self, cache: Path) -> Path:
        """Return where it is built: another place when its recipe changes."""
        digest = hashlib.sha256(Path(__file__).read_bytes())
        for name in _SCRIPTS:
            digest.update(_script(name).read_bytes())
        return cache / "images" / f"debian-12-{digest.hexdigest()[:12]}"

    def image(self, cache: Path, say: Say) -> Image:
        """Return the image, built the first time."""
        target = build_once(
            self.directory(cache),
            lambda place: build(place / "debian-12.qcow2", say),
            waiting=lambda: say("waiting for another process to build debian-12"),
        )
        return Image(
            name="debian-12",
            disk=target / "debian-12.qcow2",
            format="qcow2",
            firmware="uefi",
            machine="q35",
            memory="1G",
            devices=("VGA",),
            append=f"root=LABEL=debian-12 ro {CONSOLES}",
            channels=("shell", "agent", "ssh"),
            provision="cloud-init",
            boot_timeout=60,
        )


DEBIAN_12 = Debian12()


def build(target: Path, say: Say) -> None:
    """Build the image from packages: a minute or two, some 160 MB to download, 2 GB of room while it lasts.

    :param target: the qcow2 file; it appears when it is complete, or not at all.
    :param say: gets one line for each step.
    :raise HostError: when the host lacks a tool or a right; names them all.
    :raise ImageError: when a tool failed; its last words ride along as a note.
    """
    check_host()
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        say("installing the packages of Debian 12")
        _run("mmdebstrap", _mmdebstrap(work), work)
        say("making the disk")
        _run("assemble.sh", [*_as_root(), "sh", str(_script("assemble.sh")), str(DISK_MIB)], work)
        say("writing the image")
        # Not compressed: a third of the size, but every guest would unpack again what it reads
        _run("qemu-img", ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "disk.raw", "disk.qcow2"], work)
        (work / "disk.qcow2").replace(target)
    finally:
        # As the root that wrote it: a user may not remove the files of its namespace's other owners
        subprocess.run([*_as_root(), "rm", "-rf", "--one-file-system", "--", str(work)], check=False)


def check_host() -> None:
    """Tell everything that the build would miss, in one message.

    :raise HostError: naming it, and the command that installs it.
    """
    missing = [program for program in NEEDED if not shutil.which(program)]
    packages = {NEEDED[program] for program in missing}
    if platform.machine() not in {"x86_64", "AMD64"}:
        missing.append(f"an x86-64 host (this is {platform.machine()})")
    if not KEYRING.exists():
        missing.append("the keys of Debian's archive")
        packages.add("debian-archive-keyring")
    advice = ""
    if os.geteuid() != 0 and "unshare" not in missing and not _has_namespace():
        missing.append("root, or user namespaces for this user")
        if not shutil.which("newuidmap"):
            packages.add("uidmap")
        ranges = "--add-subuids 100000-165535 --add-subgids 100000-165535"
        advice = f"; a user who is not in /etc/subuid gets there with: usermod {ranges} USER"
    if missing:
        install = f": apt-get install {' '.join(sorted(packages))}" if packages else ""
        raise HostError(f"to build debian-12, this host lacks {', '.join(missing)}{install}{advice}")


def host_mirrors(listing: str) -> list[str]:
    """Pick Debian 12's mirrors out of those that the host uses, as lines of a sources.list.

    :param listing: what ``apt-get indextargets`` printed: release, component, URI, origin.
    :return: nothing when the host has no mirror of the release itself: mmdebstrap then uses its own.
    """
    suites: dict[tuple[str, str], None] = {}
    for line in listing.splitlines():
        release, component, uri, origin = line.split(" ", 3)
        where = urlsplit(uri)
        # The host's lists may never have been fetched, or were thrown away
        unknown = origin.startswith("$") and Path(where.path).name.startswith("debian")
        debian = origin == "Debian" or unknown
        if debian and component == "main" and where.scheme in {"http", "https"}:
            suites[uri, release] = None
    wanted = (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
    lines = [f"deb {uri} {suite} main" for uri, suite in suites if suite in wanted]
    return lines if any(suite == SUITE for _, suite in suites) else []


def host_transport(dump: str) -> str:
    """Pick how the host's apt reaches its mirrors: proxies, certificates, tolerance.

    :param dump: what ``apt-config dump`` printed.
    :return: lines for a file in ``apt.conf.d``.
    """
    return "".join(f"{line}\n" for line in dump.splitlines() if _TRANSPORT.match(line))


def _mmdebstrap(work: Path) -> list[str]:
    """Write the command that installs the packages into ``root.tar`` and makes ``esp.img`` on the way."""
    transport = work / "transport.conf"
    transport.write_text(host_transport(_ask("apt-config", "dump")))
    mirrors = host_mirrors(_ask("apt-get", "indextargets", "--format", _MIRROR, "Created-By: Packages"))
    trusted = _ask("sh", "-c", 'eval "$(apt-config shell d Dir::Etc::TrustedParts/d)"; echo "$d"')
    unpack = (
        'cd "$1/tmp" && export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" && '
        f"apt-get download {' '.join(BOOT_PACKAGES)} && "
        'for deb in *.deb; do dpkg-deb --extract "$deb" efi || exit; done'
    )
    conf = "/etc/apt/apt.conf.d/00build-host"
    return [
        *_own_mounts(),
        "mmdebstrap",
        f"--mode={'unshare' if os.geteuid() else 'root'}",
        "--verbose",
        "--variant=minbase",
        "--format=tar",
        "--architectures=amd64",
        f"--include={','.join(PACKAGES)}",
        f"--keyring={KEYRING}",
        *([f"--keyring={trusted}"] if trusted and Path(trusted).is_dir() else []),
        *(f"--dpkgopt=path-exclude={path}" for path in EXCLUDED),
        *(f"--dpkgopt=path-include={path}" for path in INCLUDED),
        f"--setup-hook={shlex.join(['upload', str(transport), conf])}",
        *_inside("essential", "prepare.sh"),
        f"--customize-hook={unpack}",
        *_inside("customize", "customize.sh"),
        f"--customize-hook={shlex.join(['download', '/esp.img', str(work / 'esp.img')])}",
        f'--customize-hook=rm "$1/esp.img" "$1{conf}"',
        SUITE,
        str(work / "root.tar"),
        *mirrors,
    ]


def _inside(stage: str, name: str) -> list[str]:
    """Write the hooks that run one of our scripts inside the tree."""
    upload = shlex.join(["upload", str(_script(name)), f"/{name}"])
    return [f"--{stage}-hook={upload}", f'--{stage}-hook=chroot "$1" sh /{name} && rm "$1/{name}"']


def _run(tool: str, argv: Sequence[str], work: Path) -> None:
    """Run one tool to its end, its output in the log; an interrupt ends it and all that it started."""
    log = work / "build.log"
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    if os.geteuid() == 0:  # the root of a namespace may be unable to enter its user's directories
        environment["TMPDIR"] = str(work)
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv,
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait()
        except BaseException:
            _end(process)
            raise
    if code != 0:
        error = ImageError(f"building debian-12 failed: {tool} ended with {describe_exit(code)}")
        words = log.read_text(errors="replace").splitlines()[-_LAST_WORDS:]
        error.add_note("\n".join([f"{tool} said last:", *words]))
        raise error


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let a tool tidy up after itself, then insist."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ask(*argv: str) -> str:
    """Return what a quick question to the host's apt prints."""
    answer = subprocess.run(argv, check=False, capture_output=True, text=True)
    if answer.returncode:
        error = ImageError(f"building debian-12 failed: {shlex.join(argv)} does not work on this host")
        error.add_note(answer.stderr.strip())
        raise error
    return answer.stdout.strip()


def _as_root() -> tuple[str, ...]:
    return _AS_ROOT if os.geteuid() else ()


def _own_mounts() -> tuple[str, ...]:
    """Give root's mmdebstrap a mount namespace of its own, where nothing stays mounted when it is ended.

    A plain chroot, whose root is no mount point, cannot have one; there mmdebstrap tidies up by itself.
    """
    alone = ("unshare", "--mount", "--")
    works = (
        os.geteuid() == 0
        and subprocess.run([*alone, "true"], check=False, capture_output=True).returncode == 0
    )
    return alone if works else ()


def _has_namespace() -> bool:
    return subprocess.run([*_AS_ROOT, "true"], check=False, capture_output=True).returncode == 0


def _script(name: str) -> Path:
    return asset(f"debian-12/{name}")
