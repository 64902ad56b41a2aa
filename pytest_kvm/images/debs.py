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


def fetch(packages: Sequence[str], directory: Path, say: Say) -> list[str]:
    """Download packages by name and unpack them all under ``directory/root``.

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
        error = _download(source, packages, downloads)
        if error is None:
            break
    else:
        raise ImageError(f"apt-get download failed: {error}")
    archives = sorted(downloads.glob("*.deb"))
    for archive in archives:
        _unpack(archive, directory / "root")
    return [archive.stem.replace("%3a", ":") for archive in archives]


def _download(source: Sequence[str], packages: Sequence[str], downloads: Path) -> str | None:
    """Download into a directory; return apt's complaint if it has one."""
    names = list(packages)
    if kernels := [name for name in names if name.startswith("linux-image-")]:
        kernel = _real_kernel(source, kernels[0], downloads)
        if kernel is None:
            return f"apt knows no package {kernels[0]}"
        names[names.index(kernels[0])] = kernel
    return _apt([*source, "download", *names], downloads)


def _real_kernel(source: Sequence[str], meta: str, downloads: Path) -> str | None:
    """Return the kernel package that a meta package stands for today."""
    result = _run(["apt-cache", *source, "depends", "--important", meta], downloads)
    words = result.stdout.split()
    return next((word for word in words[1:] if word.startswith("linux-image-")), None)


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
