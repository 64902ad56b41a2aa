"""Kernel modules: chosen with what they depend on, in the order in which modprobe loads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kvm.images import modules


def ko(tree: Path, path: str, depends: str = "", aliases: tuple[str, ...] = ()) -> None:
    """Write a module with the strings of a .modinfo section between other bytes."""
    strings = ["license=GPL", *(f"alias={alias}" for alias in aliases), f"depends={depends}", "vermagic=6.1"]
    data = b"\x7fELF\1\0" + b"\0".join(text.encode() for text in strings) + b"\0depending=on\0\xff\xfe"
    file = tree / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make ``lib/modules/RELEASE`` of a small kernel."""
    ko(tmp_path, "kernel/drivers/virtio/virtio.ko")
    ko(tmp_path, "kernel/drivers/virtio/virtio_ring.ko", "virtio")
    ko(tmp_path, "kernel/drivers/virtio/virtio_pci.ko", "virtio_ring,virtio", ("pci:v00001AF4d*",))
    ko(tmp_path, "kernel/fs/fat/fat.ko")
    ko(tmp_path, "kernel/fs/fat/vfat.ko", "fat", ("fs-vfat", "fs-msdos"))
    ko(tmp_path, "kernel/drivers/net/virtio-net.ko", "virtio-ring,built_in")
    ko(tmp_path, "kernel/drivers/unused.ko")
    return tmp_path


def test_what_is_named_comes_with_what_it_needs(tree: Path) -> None:
    """And nothing else comes along; names that the kernel does not have as files are passed over."""
    chosen = modules.choose(tree, ["virtio_pci", "ext4", "vfat"])
    assert list(chosen) == ["fat", "vfat", "virtio", "virtio_pci", "virtio_ring"]
    assert chosen["vfat"].path == "kernel/fs/fat/vfat.ko"
    assert chosen["vfat"].data == (tree / "kernel/fs/fat/vfat.ko").read_bytes()


def test_dashes_and_underscores_are_one(tree: Path) -> None:
    """A file may say ``virtio-net`` where the module is ``virtio_net``, and a dependency likewise."""
    assert list(modules.choose(tree, ["virtio_net"])) == ["virtio", "virtio_net", "virtio_ring"]
    assert list(modules.choose(tree, ["virtio-net"])) == ["virtio", "virtio_net", "virtio_ring"]


def test_what_must_be_there_first_stands_last(tree: Path) -> None:
    """modprobe loads the names after the colon from the right to the left."""
    listing = modules.dependency_list(modules.choose(tree, ["virtio_pci"]))
    virtio = "kernel/drivers/virtio"
    assert listing.splitlines() == [
        f"{virtio}/virtio.ko:",
        f"{virtio}/virtio_pci.ko: {virtio}/virtio_ring.ko {virtio}/virtio.ko",
        f"{virtio}/virtio_ring.ko: {virtio}/virtio.ko",
    ]


def test_each_line_can_be_loaded_from_the_right(tmp_path: Path) -> None:
    """A deeper tree, with one module needed along two ways."""
    ko(tmp_path, "a.ko", "b,c")
    ko(tmp_path, "b.ko", "d")
    ko(tmp_path, "c.ko", "b,d")
    ko(tmp_path, "d.ko", "e")
    ko(tmp_path, "e.ko")
    chosen = modules.choose(tmp_path, ["a"])
    for line in modules.dependency_list(chosen).splitlines():
        name, _, rest = line.partition(":")
        loaded: set[str] = set()
        for needed in [*reversed(rest.split()), name]:
            assert set(chosen[Path(needed).stem].depends) <= loaded, line
            loaded.add(Path(needed).stem)
        assert len(rest.split()) == len(set(rest.split()))


def test_aliases_tell_which_module_serves_what(tree: Path) -> None:
    """One line for each, in modules.alias's form."""
    assert modules.alias_list(modules.choose(tree, ["vfat", "virtio_pci"])).splitlines() == [
        "alias fs-vfat vfat",
        "alias fs-msdos vfat",
        "alias pci:v00001AF4d* virtio_pci",
    ]


def test_only_modinfo_counts(tree: Path) -> None:
    """A string that merely looks alike is not taken for a dependency."""
    assert modules.choose(tree, ["virtio"])["virtio"].depends == ()


def test_no_modules_at_all(tmp_path: Path) -> None:
    """A kernel with everything built in needs none."""
    assert modules.choose(tmp_path, ["virtio"]) == {}
    assert modules.dependency_list({}) == "\n"
