"""Copy files and directories over a command channel: one tar stream each way, in pieces of bounded size."""

from __future__ import annotations

import io
import os
import shlex
import tarfile
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from pytest_kvm.errors import KvmError

if TYPE_CHECKING:
    from pytest_kvm.result import Result

# A piece waits in the guest's memory until it is written: small against 128 MiB, QEMU's default.
_PIECE = 4 << 20


class Run(Protocol):
    """``guest.run``, as far as copying needs it."""

    def __call__(self, command: str, *, timeout: float, input: bytes | None = None) -> Result:
        """Run a command and return its result, or raise."""


def put(run: Run, local: Path, remote: str, timeout: float) -> None:
    """Copy a file or directory into the guest; a directory there gets it inside, as with ``cp -r``.

    :param local: what to copy.
    :param remote: absolute path in the guest; parents are made.
    :param timeout: seconds for all of it.
    :raise FileNotFoundError: when there is nothing to copy.
    """
    deadline = time.monotonic() + timeout
    target = PurePosixPath(remote)
    if remote.endswith("/") or run(f"[ -d {shlex.quote(remote)} ] && echo yes || :", timeout=timeout).stdout:
        target /= local.name
    archive = f"/tmp/.pytest-kvm-{time.monotonic_ns()}.tar"  # noqa: S108  # in the throwaway guest
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(local, arcname=target.name, filter=_owned_by_root)
    data = stream.getbuffer()
    for start in range(0, len(data), _PIECE):
        piece = bytes(data[start : start + _PIECE])
        run(f"cat >>{archive}", timeout=deadline - time.monotonic(), input=piece)
    parent = shlex.quote(str(target.parent))
    script = f"mkdir -p {parent} && tar -xf {archive} -C {parent}; status=$?; rm -f {archive}; exit $status"
    run(script, timeout=deadline - time.monotonic())


def get(run: Run, remote: str, local: Path, timeout: float) -> Path:
    """Copy a file or directory out of the guest; an existing directory gets it inside, as with ``cp -r``.

    :return: the path of the copy.
    :raise KvmError: when the guest's archive would write anywhere else.
    """
    target = local / PurePosixPath(remote).name if local.is_dir() else local
    # A link as the source is followed, as cp does; what it leads to may have another name.
    path = run(
        f"readlink -e -- {shlex.quote(remote)} || ls -d -- {shlex.quote(remote)}", timeout=timeout
    ).stdout
    source = PurePosixPath(path.removesuffix("\n"))
    parent, name = shlex.quote(str(source.parent)), shlex.quote(source.name)
    archive = run(f"tar -cf - -C {parent} -- {name}", timeout=timeout).stdout_bytes
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            for member in tar:
                _unpack(tar, member, source.name, target)
    except tarfile.TarError as error:
        raise KvmError(f"get: the guest sent no archive of {remote}: {error}") from error
    return target


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _unpack(tar: tarfile.TarFile, member: tarfile.TarInfo, root: str, target: Path) -> None:
    """Write one member below ``target``; devices and pipes are left out."""
    path = _place(member.name, root, target)
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
    elif member.issym():
        _link(member.linkname, path, target)
    elif member.islnk() and (same := _place(member.linkname, root, target)).is_file():
        _write(path, same.read_bytes(), member.mode)
    elif member.isreg() and (content := tar.extractfile(member)) is not None:
        _write(path, content.read(), member.mode)


def _place(name: str, root: str, target: Path) -> Path:
    """Say where a member belongs; the guest is not trusted with where that is."""
    parts = PurePosixPath(name).parts
    path = target.joinpath(*parts[1:])
    above = [target.joinpath(*parts[1:end]) for end in range(2, len(parts))]
    if not parts or parts[0] != root or ".." in parts or any(place.is_symlink() for place in above):
        raise KvmError(f'get: the guest sent "{name}", which is outside "{root}"; nothing was written there')
    return path


def _write(path: Path, data: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        path.unlink()
    path.write_bytes(data)
    path.chmod(mode & 0o777)


def _link(linkname: str, path: Path, target: Path) -> None:
    destination = Path(os.path.normpath(path.parent / linkname))
    # After a name that is a link itself, ".." would lead elsewhere than it seems to.
    steps = list(PurePosixPath(linkname).parts)
    straight = steps == sorted(steps, key=lambda step: step != "..")
    if not straight or not destination.is_relative_to(os.path.normpath(target)):
        raise KvmError(f'get: the guest sent a link "{path.name}" to "{linkname}", outside the copy')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(linkname)
