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

import getpass
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pytest_kvm.errors import HostError, ImageError, describe_exit

SUITE = "bookworm"
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
NEEDED = {"mmdebstrap": "mmdebstrap", "apt-get": "apt", "tar": "tar", "qemu-img": "qemu-utils"}
"""Host programs, and the Debian packages they come from."""

AS_ROOT = ("unshare", "--map-root-user", "--map-auto", "--")
"""How a user becomes root of a namespace that has all the owners a file system needs."""

_LAST_WORDS = 5
_GRACE = 30.0
"""Seconds that mmdebstrap gets to unmount and remove what it has begun."""


def build(target: Path, say: Callable[[str], None]) -> None:
    """Build the image from packages: a minute or two, some 200 MB to download, 2 GB beside the target.

    :param target: the qcow2 file; it appears when it is complete, or not at all.
    :param say: gets one line for each step.
    :raise HostError: when the host lacks a tool or a right; names them all.
    :raise ImageError: when a tool failed; its last words ride along as a note.
    """
    check_host()
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        say("installing Debian 12 packages")
        _run(_mmdebstrap(work), work)
        say("making the disk")
        _run([*_as_root(), "sh", str(_asset("assemble.sh")), str(DISK_MIB)], work)
        say("writing the image")
        _run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "disk.raw", "disk.qcow2"], work)
        (work / "disk.qcow2").replace(target)
    finally:
        # As the root that wrote it: a user may not remove the files of its namespace's other owners
        subprocess.run([*_as_root(), "rm", "-rf", "--", str(work)], check=False)


def check_host() -> None:
    """Tell everything that the build would miss, in one message.

    :raise HostError: naming it, and the command that installs it.
    """
    missing = [program for program in NEEDED if not shutil.which(program)]
    packages = {NEEDED[program] for program in missing}
    advice = ""
    if platform.machine() not in {"x86_64", "AMD64"}:
        missing.append(f"an x86-64 host (this is {platform.machine()})")
    if not KEYRING.exists():
        missing.append("the keys of Debian's archive")
        packages.add("debian-archive-keyring")
    if os.geteuid() != 0 and not _has_namespace():
        missing.append("root, or user namespaces for this user")
        if not shutil.which("newuidmap"):
            packages.add("uidmap")
        ranges = "--add-subuids 100000-165535 --add-subgids 100000-165535"
        advice = f"; a user without a line in /etc/subuid gets one with: usermod {ranges} {getpass.getuser()}"
    if missing:
        install = f": apt-get install {' '.join(sorted(packages))}" if packages else ""
        raise HostError(f"to build debian-12, this host lacks {', '.join(missing)}{install}{advice}")


def host_mirrors(listing: str) -> list[str]:
    """Pick Debian 12's mirrors out of those that the host uses, as lines of a sources.list.

    :param listing: what ``apt-get indextargets`` printed for :data:`_MIRROR_FORMAT`.
    :return: nothing when the host has no mirror of the release itself: mmdebstrap then uses its own.
    """
    suites: dict[tuple[str, str], None] = {}
    for line in listing.splitlines():
        origin, release, component, uri = line.split(" ", 3)
        unknown = origin.startswith("$")  # The host's lists were never fetched, or were thrown away
        path = urlsplit(uri).path.strip("/").rsplit("/", 1)[-1]
        if component == "main" and (origin == "Debian" or (unknown and path.startswith("debian"))):
            suites[uri, release] = None
    names = (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
    lines = [f"deb {uri} {suite} main" for uri, suite in suites if suite in names]
    return lines if any(suite == SUITE for _, suite in suites) else []


_MIRROR_FORMAT = "$(ORIGIN) $(RELEASE) $(COMPONENT) $(REPO_URI)"
_TRANSPORT = re.compile(r"Acquire::(https?::|Check-|Retries|ForceIPv)")


def host_transport(dump: str) -> str:
    """Pick how the host's apt reaches its mirrors: proxies, certificates, tolerance.

    :param dump: what ``apt-config dump`` printed.
    """
    return "".join(f"{line}\n" for line in dump.splitlines() if _TRANSPORT.match(line))


def _mmdebstrap(work: Path) -> list[str]:
    """Install the packages into ``root.tar`` and make ``esp.img`` on the way."""
    transport = work / "transport.conf"
    transport.write_text(host_transport(_ask("apt-config", "dump")))
    mirrors = host_mirrors(
        _ask("apt-get", "indextargets", "--format", _MIRROR_FORMAT, "Created-By: Packages")
    )
    conf = "/etc/apt/apt.conf.d/00build-host"
    unpack = (
        'cd "$1/tmp" && export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" && '
        f"apt-get download {' '.join(BOOT_PACKAGES)} && "
        'for deb in *.deb; do dpkg-deb --extract "$deb" efi || exit; done'
    )
    return [
        "mmdebstrap",
        "--verbose",
        "--variant=minbase",
        "--format=tar",
        f"--mode={'unshare' if os.geteuid() else 'root'}",
        "--architectures=amd64",
        f"--include={','.join(PACKAGES)}",
        f"--keyring={KEYRING}",
        f"--keyring={_ask('sh', '-c', 'eval $(apt-config shell d Dir::Etc::TrustedParts/d); echo $d')}",
        *(f"--dpkgopt=path-exclude={path}" for path in EXCLUDED),
        *(f"--dpkgopt=path-include={path}" for path in INCLUDED),
        f"--setup-hook={shlex.join(['upload', str(transport), conf])}",
        *_script("essential", "prepare.sh"),
        f"--customize-hook={unpack}",
        *_script("customize", "customize.sh"),
        f"--customize-hook={shlex.join(['download', '/tmp/esp.img', str(work / 'esp.img')])}",
        f'--customize-hook=rm "$1{conf}"',
        SUITE,
        str(work / "root.tar"),
        *mirrors,
    ]


def _script(stage: str, name: str) -> list[str]:
    """Run one of our scripts inside the tree."""
    upload = shlex.join(["upload", str(_asset(name)), f"/tmp/{name}"])  # noqa: S108 - the tree's own
    return [f"--{stage}-hook={upload}", f'--{stage}-hook=chroot "$1" sh /tmp/{name}']


def _run(argv: Sequence[str], work: Path) -> None:
    """Run one tool to its end, with its output in the log; nothing of it outlives an interrupt."""
    log = work / "build.log"
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    if os.geteuid() == 0:  # a namespace's root may be unable to enter a user's directory
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
        tool = next(word for word in argv if word not in AS_ROOT)
        error = ImageError(f"building debian-12 failed: {tool} ended with {describe_exit(code)}")
        words = log.read_text(errors="replace").splitlines()[-_LAST_WORDS:]
        error.add_note("\n".join([f"{tool} said last:", *words]))
        raise error


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let a tool tidy up after itself, then insist."""
    for number, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, None)):
        os.killpg(process.pid, number)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
        return


def _as_root() -> tuple[str, ...]:
    return AS_ROOT if os.geteuid() else ()


def _has_namespace() -> bool:
    if not shutil.which("unshare"):
        return False
    return subprocess.run([*AS_ROOT, "true"], check=False, capture_output=True).returncode == 0


def _ask(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def _asset(name: str) -> Path:
    """Find one of our scripts: inside the installed package, or beside it in the source tree."""
    package = Path(__file__).parents[1]
    inside = package / "assets" / "debian-12" / name
    return inside if inside.exists() else package.parent / "assets" / "debian-12" / name
