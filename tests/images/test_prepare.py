"""What a launch needs: a complete config, and the files that it names."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kvm.config import Drive, GuestConfig, NetDev, Serial
from pytest_kvm.errors import ConfigError, ImageError
from pytest_kvm.images import firmware, qcow2
from pytest_kvm.images.image import Image
from pytest_kvm.images.keys import Keys, keys
from pytest_kvm.images.prepare import prepare, with_image
from pytest_kvm.images.qcow2 import DiskInfo

DISK = Image(
    name="disk",
    disk=Path("/images/base.qcow2"),
    format="qcow2",
    machine="q35",
    cpu="max",
    memory="1G",
    firmware="uefi",
    devices=("VGA",),
)
KERNEL = Image(
    name="kernel", kernel=Path("/k/vmlinuz"), initrd=Path("/k/initrd"), append="console=ttyS0 quiet"
)
needs_qemu_img = pytest.mark.skipif(not shutil.which("qemu-img"), reason="needs qemu-img")


def test_what_a_test_says_goes_first() -> None:
    """Then the image, then QEMU."""
    open_ = with_image(GuestConfig(), DISK)
    assert (str(open_.machine), str(open_.cpu), open_.memory, open_.firmware) == ("q35", "max", "1G", "uefi")
    said = with_image(GuestConfig.of(machine="pc", cpu="EPYC", memory="2G", firmware="bios"), DISK)
    assert (str(said.machine), str(said.cpu), said.memory, said.firmware) == ("pc", "EPYC", "2G", "bios")
    silent = with_image(GuestConfig(), KERNEL)
    assert (silent.machine, silent.cpu, silent.memory, silent.smp) == (None, None, None, None)


def test_devices_add_up() -> None:
    """The image's own devices come first."""
    assert with_image(GuestConfig.of(devices=["usb-ehci"]), DISK).devices == ("VGA", "usb-ehci")


def test_the_images_disk_comes_first() -> None:
    """It boots, unless a drive of the test's own says that it does."""
    config = with_image(GuestConfig.of(drives=["data.img", "more.img"]), DISK)
    assert [(drive.id, drive.bootindex) for drive in config.drives] == [
        ("disk0", 0),
        ("drive1", None),
        ("drive2", None),
    ]
    assert config.drives[0].file == DISK.disk
    config = with_image(GuestConfig.of(drives=["data.img,bootindex=1"]), DISK)
    assert config.drives[0].bootindex is None


def test_numbering_leaves_given_ids_alone() -> None:
    """A device without an id gets one that nobody has."""
    config = with_image(
        GuestConfig.of(
            drives=["a", "b,id=drive0", "c"],
            netdevs=["user", "user,id=net0", "user"],
            serials=["pty", "null,id=log"],
        ),
        KERNEL,
    )
    assert [drive.id for drive in config.drives] == ["drive1", "drive0", "drive2"]
    assert [netdev.id for netdev in config.netdevs or ()] == ["net1", "net0", "net2"]
    assert [serial.id for serial in config.serials] == ["serial0", "log"]


@pytest.mark.parametrize("prefix", ["drive", "net", "serial"])
def test_any_mixture_of_ids_is_numbered(prefix: str) -> None:
    """Whatever was given, all ids are there and differ."""
    for given in (
        [None] * 4,
        [None, f"{prefix}1", None, f"{prefix}0"],
        [f"{prefix}{9 - n}" for n in range(4)],
    ):
        config = GuestConfig(
            drives=tuple(Drive(size="1M", id=name) for name in given) if prefix == "drive" else (),
            netdevs=tuple(NetDev(id=name) for name in given) if prefix == "net" else (),
            serials=tuple(Serial(id=name) for name in given) if prefix == "serial" else (),
        )
        whole = with_image(config, KERNEL)
        ids = [drive.id for drive in whole.drives]
        ids += [netdev.id for netdev in whole.netdevs or ()]
        ids += [serial.id for serial in whole.serials]
        assert None not in ids
        assert len(set(ids)) == len(ids) == 4


def test_the_network_is_closed_unless_opened() -> None:
    """No card was named: one on a network that leads nowhere. ``user`` opens it, ``()`` is none."""
    (card,) = with_image(GuestConfig(), KERNEL).netdevs or ()
    assert (card.backend, card.options, card.id) == ("user", {"restrict": "on"}, "net0")
    (card,) = with_image(GuestConfig.of(netdevs=["user"]), KERNEL).netdevs or ()
    assert card.options == {}
    assert with_image(GuestConfig.of(netdevs=[]), KERNEL).netdevs == ()


def test_the_kernel_line() -> None:
    """The image's words, then the guest's name where nothing else gives it one, then the test's."""
    assert with_image(GuestConfig(append="debug"), KERNEL).append == "console=ttyS0 quiet debug"
    named = replace(KERNEL, provision="fw_cfg")
    assert (
        with_image(GuestConfig(name="web", append="x"), named).append == "console=ttyS0 quiet hostname=web x"
    )
    own = with_image(GuestConfig.of(kernel="/own"), DISK)
    assert (own.kernel, own.initrd, own.append) == (Path("/own"), None, "console=ttyS0")


def test_a_kernel_of_ones_own_keeps_the_images_initrd() -> None:
    """Unless another is given."""
    assert with_image(GuestConfig.of(kernel="/own"), KERNEL).initrd == Path("/k/initrd")
    assert with_image(GuestConfig.of(kernel="/own", initrd="/mine"), KERNEL).initrd == Path("/mine")


def test_words_for_a_kernel_that_is_not_booted_directly() -> None:
    """A disk's boot loader would never see them, so they are refused."""
    with pytest.raises(ConfigError, match=r'^append "quiet": only a kernel that is booted directly'):
        with_image(GuestConfig(append="quiet"), DISK)


def test_the_architecture_must_match() -> None:
    """An image is for one."""
    with pytest.raises(ConfigError, match=r'^arch "aarch64": image "disk" is for x86_64$'):
        with_image(GuestConfig(arch="aarch64"), DISK)
    assert (
        with_image(GuestConfig(arch="x86_64"), DISK).arch == with_image(GuestConfig(), DISK).arch == "x86_64"
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Make keys in a cache of the test's own."""
    return keys(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Make a run directory."""
    path = tmp_path / "run"
    path.mkdir()
    return path


def raw(tmp_path: Path, name: str = "a,b c.img") -> Path:
    path = tmp_path / name
    path.write_bytes(b"\0" * (1 << 20))
    return path


@needs_qemu_img
def test_disks_get_throwaway_layers(tmp_path: Path, run: Path, made: Keys) -> None:
    """A layer of the same size for what may be written; none for what is read-only or meant to be written."""
    file = raw(tmp_path)
    drives = (
        Drive(file=file, id="normal"),
        Drive(file=file, id="fixed", readonly=True),
        Drive(file=file, id="direct", overlay=False),
        Drive(size="3M", id="empty"),
    )
    before = file.read_bytes()
    prepared = prepare(with_image(GuestConfig(drives=drives), KERNEL), KERNEL, made, run)
    normal, fixed, direct, empty = prepared.disks
    assert (normal.file, normal.format, normal.overlay) == (file, "raw", run / "normal.qcow2")
    assert qcow2.inspect(run / "normal.qcow2") == DiskInfo("qcow2", 1 << 20)
    assert fixed.overlay is direct.overlay is empty.overlay is None
    assert (empty.file, empty.format) == (run / "empty.qcow2", "qcow2")
    assert qcow2.inspect(empty.file) == DiskInfo("qcow2", 3 << 20)
    assert file.read_bytes() == before
    assert sorted(path.name for path in run.iterdir()) == ["empty.qcow2", "normal.qcow2"]


def test_a_relative_disk_becomes_absolute(
    tmp_path: Path, run: Path, made: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU runs in another directory."""
    monkeypatch.chdir(tmp_path)
    raw(tmp_path, "x.img")
    config = with_image(GuestConfig.of(drives=["x.img,overlay=off"]), KERNEL)
    assert prepare(config, KERNEL, made, run).disks[0].file == tmp_path / "x.img"


def test_a_missing_disk(run: Path, made: Keys) -> None:
    """It is named, before QEMU runs."""
    with pytest.raises(ImageError, match=r"^image absent\.img: no such file$"):
        prepare(with_image(GuestConfig.of(drives=["absent.img"]), KERNEL), KERNEL, made, run)


def test_a_cloud_image_gets_a_seed(run: Path, made: Keys) -> None:
    """A read-only disk of its own, last, that no layer covers."""
    image = replace(KERNEL, provision="cloud-init")
    prepared = prepare(with_image(GuestConfig(name="web"), image), image, made, run)
    (disk,) = prepared.disks
    assert (disk.file, disk.format, disk.overlay) == (run / "seed.iso", "raw", None)
    assert disk.drive.readonly
    assert b"pytest-kvm-web" in disk.file.read_bytes()
    assert prepared.fw_cfg == ()


def test_an_image_of_ours_gets_its_keys_from_firmware(run: Path, made: Keys) -> None:
    """Files of QEMU's firmware configuration device, and no disk."""
    image = replace(KERNEL, provision="fw_cfg")
    prepared = prepare(with_image(GuestConfig(), image), image, made, run)
    assert prepared.disks == ()
    assert {name: path.name for name, path in prepared.fw_cfg} == {
        "opt/org.pytest-kvm/authorized_key": "id_ed25519.pub",
        "opt/org.pytest-kvm/host_key": "host_ed25519.dropbear",
    }


def test_firmware(tmp_path: Path, run: Path, made: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """BIOS is QEMU's own; UEFI gets variables of its own; a path is taken as it is."""
    code, template = tmp_path / "code", tmp_path / "vars"
    code.write_text("code")
    template.write_text("vars")
    template.chmod(0o444)
    asked: list[tuple[str, str | None]] = []

    def uefi(arch: str, machine: str | None) -> tuple[Path, Path]:
        asked.append((arch, machine))
        return code, template

    monkeypatch.setattr(firmware, "uefi", uefi)

    def told(said: str | None) -> tuple[Path, Path | None] | None:
        config = with_image(GuestConfig.of(firmware=said, machine="q35,hpet=off"), KERNEL)
        return prepare(config, KERNEL, made, run).firmware

    assert told(None) is None
    assert told("bios") is None
    assert told(str(code)) == (code, None)
    found = told("uefi")
    assert found is not None
    variables = found[1]
    assert variables is not None
    assert (found[0], variables.parent) == (code, run)
    assert asked == [("x86_64", "q35")]
    variables.write_text("changed by the guest")
    assert template.read_text() == "vars"
    with pytest.raises(ImageError, match=r'^firmware "efi": no such file; say "bios", "uefi", or a path$'):
        told("efi")
