"""Fetch and unpack packages of the distribution, as an ordinary user and without installing them."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from pytest_kvm.errors import HostError, ImageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_kvm.images.image import Say

_TIMEOUT = 900.0
# Only what a package cannot do without.
_FIRMLY = [
    f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
]


def fetch(packages: Sequence[str], directory: Path, say: Say) -> list[str]:
    """Download packages and what they depend on, and unpack them all under ``directory/root``.

    Of a kernel's meta package the kernel alone is taken: what else it depends on serves an installed system.

    :return: name and version of each, ``busybox-static_1.35.0-4_amd64``.
    :raise HostError: when this host has no apt.
    :raise ImageError: when a package is not to be had.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise HostError(
            "the guest tiny is made of Debian packages, and this host has no apt-get; give it your own: "
            "pytest-kvm image build tiny --kernel BZIMAGE --busybox BUSYBOX"
        )
    downloads = directory / "debs"
    downloads.mkdir()
    for source in ([], _own_lists(directory)):
        if source:
            say("refreshing the package lists")
            _apt([*source, "update"], downloads)
        say(f"downloading {', '.join(packages)}")
        names = [name for package in packages for name in _needed(source, package, downloads)]
        complaint = _apt([*source, "download", *dict.fromkeys(names or packages)], downloads)
        if names and complaint is None:
            break
    else:
        raise ImageError(f"apt-get download failed: {complaint or 'the packages are unknown'}")
    archives = sorted(downloads.glob("*.deb"))
    for archive in archives:
        _unpack(archive, directory / "root")
    return [archive.stem.replace("%3a", ":") for archive in archives]


def _needed(source: Sequence[str], package: str, downloads: Path) -> list[str]:
    """Return the packages to download for one; none when apt does not know it."""
    listing = _run(["apt-cache", *source, "depends", *_FIRMLY, package], downloads).stdout.splitlines()
    if package.startswith("linux-image-"):
        return [
            name for line in listing if (name := line.partition("Depends: ")[2]).startswith("linux-image-")
        ]
    listing = _run(
        ["apt-cache", *source, "depends", "--recurse", *_FIRMLY, package], downloads
    ).stdout.splitlines()
    return [line for line in listing if line[:1].isalnum()]


def _apt(arguments: Sequence[str], directory: Path) -> str | None:
    """Run apt-get and return its complaint, if it has one."""
    result = _run(["apt-get", "--quiet", "--quiet", *arguments], directory)
    if result.returncode == 0:
        return None
    complaints = [line for line in result.stderr.splitlines() if line.startswith("E:")]
    return (complaints or [f"exit code {result.returncode}"])[0].removeprefix("E: ")


def _own_lists(directory: Path) -> list[str]:
    """Return options that keep package lists of our own: the host's may be missing, and are root's."""
    state = directory / "apt"
    for name in ("lists/partial", "archives/partial"):
        (state / name).mkdir(parents=True, exist_ok=True)
    return [
        f"-oDir::State::Lists={state}/lists",
        f"-oDir::Cache={state}",
        "-oAPT::Sandbox::User=",
    ]


def _unpack(archive: Path, root: Path) -> None:
    result = _run(["dpkg-deb", "--extract", str(archive), str(root)], archive.parent)
    if result.returncode:
        raise ImageError(f"{archive.name} cannot be unpacked: {result.stderr.strip()}")


def _run(argv: Sequence[str], directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        cwd=directory,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=_TIMEOUT,
        check=False,
    )
