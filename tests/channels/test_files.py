"""Copying both ways, through the host's own shell and tar in place of a guest's."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_kvm.channels import files
from pytest_kvm.errors import CommandError, KvmError
from pytest_kvm.result import Result, make_result

if TYPE_CHECKING:
    from collections.abc import Callable

NASTY = "a b,c:d\"e'f\\g=h\ni$(x) *"


class Guest:
    """Runs commands on the host, and counts the pieces that were sent."""

    def __init__(self) -> None:
        self.pieces: list[int] = []

    def __call__(self, command: str, *, timeout: float, input: bytes | None = None) -> Result:
        assert timeout > 0
        if input is not None:
            self.pieces.append(len(input))
        done = subprocess.run(["/bin/sh", "-c", command], input=input, capture_output=True, check=False)
        result = make_result(command, done.returncode, done.stdout, done.stderr)
        if result.returncode:
            raise CommandError(result)
        return result


@pytest.fixture
def guest() -> Guest:
    """Stand in for a guest."""
    return Guest()


def tree(root: Path) -> dict[str, object]:
    """Describe a directory: names, modes, contents, where links point."""
    return {
        str(path.relative_to(root)): (
            path.readlink()
            if path.is_symlink()
            else None
            if path.is_dir()
            else (path.stat().st_mode & 0o777, path.read_bytes())
        )
        for path in sorted(root.rglob("*"))
    }


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a directory with everything that is awkward."""
    root = tmp_path / "host" / "project"
    (root / "sub" / "empty").mkdir(parents=True)
    (root / "script.sh").write_text("#!/bin/sh\n")
    (root / "script.sh").chmod(0o755)
    (root / "secret").write_bytes(b"\0\xff")
    (root / "secret").chmod(0o600)
    (root / NASTY).write_text("nasty")
    (root / "sub" / "-dash").write_text("")
    (root / "sub" / "link").symlink_to("../script.sh")
    (root / ("long" * 50)).write_text("x")
    return root


def test_a_file_into_the_guest(guest: Guest, tmp_path: Path) -> None:
    """Its content and mode arrive; directories above it are made."""
    source = tmp_path / "tool"
    source.write_bytes(b"\0\xff")
    source.chmod(0o750)
    target = tmp_path / "guest" / "opt" / "bin" / "renamed"
    files.put(guest, source, str(target), 5)
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"\0\xff", 0o750)


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_file_into_a_directory_of_the_guest(guest: Guest, tmp_path: Path, slash: str) -> None:
    """An existing directory gets it inside; a trailing slash says that one is meant."""
    source, target = tmp_path / "tool", tmp_path / "guest"
    source.write_text("x")
    if not slash:
        target.mkdir()
    files.put(guest, source, f"{target}{slash}", 5)
    assert (target / "tool").read_text() == "x"


@pytest.mark.parametrize("name", ["plain", NASTY, "-rf", "ü\n"])
def test_any_name_goes_in_and_comes_out(guest: Guest, tmp_path: Path, name: str) -> None:
    """Spaces, quotes, newlines, leading dashes: a name is a name."""
    source = tmp_path / name
    source.write_text("content")
    there = tmp_path / "guest" / f"x{name}" / name
    files.put(guest, source, str(there), 5)
    assert there.read_text() == "content"
    back = files.get(guest, str(there), tmp_path / f"back{name}", 5)
    assert back == tmp_path / f"back{name}"
    assert back.read_text() == "content"


def test_a_directory_goes_in_and_comes_out(guest: Guest, project: Path, tmp_path: Path) -> None:
    """With its modes, links, empty directories and awkward names."""
    there = tmp_path / "guest" / "copy"
    files.put(guest, project, str(there), 5)
    assert tree(there) == tree(project)
    back = files.get(guest, str(there), tmp_path / "back", 5)
    assert tree(back) == tree(project)


def test_a_directory_into_a_directory(guest: Guest, project: Path, tmp_path: Path) -> None:
    """An existing directory gets it inside, on both sides, as with ``cp -r``."""
    there, back = tmp_path / "guest", tmp_path / "back"
    there.mkdir()
    back.mkdir()
    files.put(guest, project, str(there), 5)
    assert tree(there / "project") == tree(project)
    assert files.get(guest, f"{there}/project/", back, 5) == back / "project"
    assert tree(back / "project") == tree(project)


def test_getting_again_overwrites(guest: Guest, project: Path, tmp_path: Path) -> None:
    """A second copy replaces files and links of the first; nothing is written through an old link."""
    back, outside = tmp_path / "back", tmp_path / "outside"
    files.get(guest, str(project), back, 5)
    outside.write_text("kept")
    (back / "secret").unlink()
    (back / "secret").symlink_to(outside)
    back.rename(tmp_path / "project")
    files.get(guest, str(project), tmp_path, 5)
    assert outside.read_text() == "kept"
    assert tree(tmp_path / "project") == tree(project)


def test_hard_links_come_out_as_files(guest: Guest, tmp_path: Path) -> None:
    """Two names of one file are two files here."""
    source = tmp_path / "guest"
    source.mkdir()
    (source / "one").write_text("same")
    (source / "two").hardlink_to(source / "one")
    assert dict(tree(files.get(guest, str(source), tmp_path / "back", 5)).items()) == {
        "one": (0o644, b"same"),
        "two": (0o644, b"same"),
    }


def test_a_big_file_goes_in_pieces(guest: Guest, tmp_path: Path) -> None:
    """No piece is larger than what a small guest can hold, and the parts make the whole."""
    source = tmp_path / "big"
    source.write_bytes(os.urandom(9 << 20))
    there = tmp_path / "guest" / "big"
    files.put(guest, source, str(there), 20)
    assert there.read_bytes() == source.read_bytes()
    assert max(guest.pieces) == 4 << 20
    assert len(guest.pieces) == 3
    assert files.get(guest, str(there), tmp_path / "back", 20).read_bytes() == source.read_bytes()


def test_nothing_is_left_in_the_guest(guest: Guest, tmp_path: Path) -> None:
    """The archive that was collected there is removed, also when it could not be unpacked."""
    before = set(Path("/tmp").glob(".pytest-kvm-*"))
    source = tmp_path / "x"
    source.write_text("x")
    files.put(guest, source, str(tmp_path / "y"), 5)
    with pytest.raises(CommandError):
        files.put(guest, source, "/proc/nowhere/x", 5)
    assert set(Path("/tmp").glob(".pytest-kvm-*")) == before


def test_what_is_not_there(guest: Guest, tmp_path: Path) -> None:
    """Nothing to put is FileNotFoundError; nothing to get is the guest's own complaint."""
    with pytest.raises(FileNotFoundError):
        files.put(guest, tmp_path / "absent", "/tmp/x", 5)
    with pytest.raises(CommandError) as caught:
        files.get(guest, str(tmp_path / "absent"), tmp_path / "back", 5)
    assert "absent" in caught.value.result.stderr


def test_a_link_as_the_source_is_followed(guest: Guest, tmp_path: Path) -> None:
    """What a link leads to is copied, under the name that was asked for."""
    (tmp_path / "real").write_text("content")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "into").mkdir()
    copy = files.get(guest, str(tmp_path / "link"), tmp_path / "into", 5)
    assert copy == tmp_path / "into" / "link"
    assert not copy.is_symlink()
    assert copy.read_text() == "content"


def member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"evil"
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o777
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    return info, data


def hostile(*members: tuple[tarfile.TarInfo, bytes]) -> Callable[..., Result]:
    """Be a guest that answers with an archive of its own making."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data) if info.size else None)

    def run(command: str, *, timeout: float, input: bytes | None = None) -> Result:
        if command.startswith("readlink"):
            return make_result(command, 0, shlex.split(command)[3].encode() + b"\n", b"")
        assert shlex.split(command)[:3] == ["tar", "-cf", "-"]
        return make_result(command, 0, stream.getvalue(), b"")

    return run


DIR, SYM, LNK = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize(
    "members",
    [
        [member("../evil")],
        [member("data/../../evil")],
        [member("/etc/evil")],
        [member("other/evil")],
        [member("data", DIR), member("data/link", SYM, "/outside")],
        [member("data", DIR), member("data/link", SYM, "../../outside")],
        [member("data", SYM, "../outside"), member("data/evil")],
        [member("data", DIR), member("data/link", SYM, ".."), member("data/link/evil")],
        # The link lies deeper than it is said to lie: ".." leads further than its name tells.
        [
            member("data/a/b", DIR),
            member("data/a/b/up", SYM, "../.."),
            member("data/a/b/up/out", SYM, "../../.."),
            member("data/out/evil"),
        ],
        # "." is inside, and so ".." after it seems to be.
        [member("data", DIR), member("data/d", SYM, "."), member("data/out", SYM, "d/../../outside")],
        [member("data", DIR), member("data/d", SYM, "."), member("data/out", SYM, "d/../x")],
        [member("data", DIR), member("data/hard", LNK, "../../outside")],
        [member("data", DIR), member("data/hard", LNK, "/etc/passwd")],
    ],
)
def test_a_hostile_guest_writes_nowhere_else(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    """An archive that would leave the copy is refused, and outside of it nothing has changed."""
    area = tmp_path / "area"
    target = area / "target"
    target.mkdir(parents=True)
    (area / "outside").write_text("kept")
    with pytest.raises(KvmError, match=r"^get: the guest sent "):
        files.get(hostile(*members), "/data", target / "data", 5)
    assert [path.name for path in tmp_path.iterdir()] == ["area"]
    assert sorted(path.name for path in area.iterdir()) == ["outside", "target"]
    assert (area / "outside").read_text() == "kept"
    assert {path.name for path in target.iterdir()} <= {"data"}
    for path in target.rglob("*"):
        assert not path.is_symlink() or path.resolve().is_relative_to(target)


def test_special_files_are_left_out(tmp_path: Path) -> None:
    """A device or a pipe of the guest is nothing to make on the host; the setuid bit stays there too."""
    suid, data = member("data/suid")
    suid.mode = 0o4755
    run = hostile(
        member("data", DIR),
        member("data/dev", tarfile.CHRTYPE),
        member("data/p", tarfile.FIFOTYPE),
        (suid, data),
    )
    copy = files.get(run, "/data", tmp_path / "copy", 5)
    assert tree(copy) == {"suid": (0o755, b"evil")}
    assert (copy / "suid").stat().st_mode & 0o7000 == 0


def test_an_archive_that_is_none(tmp_path: Path) -> None:
    """A guest without a proper tar is said to have sent no archive."""

    def run(command: str, *, timeout: float, input: bytes | None = None) -> Result:
        return make_result(command, 0, b"tar: not found", b"")

    with pytest.raises(KvmError, match=r"^get: the guest sent no archive"):
        files.get(run, "/data", tmp_path / "copy", 5)
