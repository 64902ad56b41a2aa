"""From a name or a path to an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_kvm.errors import ConfigError, ImageError
from pytest_kvm.images import catalog
from pytest_kvm.images.image import Image

if TYPE_CHECKING:
    from collections.abc import Callable


class Entry:
    """An entry point of the group ``pytest_kvm.images``."""

    def __init__(self, name: str, load: Callable[[], object]) -> None:
        self.name, self.value, self.load = name, f"somewhere:{name}", load


class Source:
    """An image that is built."""

    name, description = "built", "made on demand"

    def image(self, cache: Path, say: Callable[[str], None]) -> Image:
        say(f"building in {cache}")
        return Image(name="built", disk=cache / "disk")


def broken() -> object:
    raise ImportError("no module named nowhere")


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a few images of the test's own."""
    plain = Image(name="plain", kernel=Path("/boot/vmlinuz"))
    entries = [Entry("built", Source), Entry("plain", lambda: plain), Entry("broken", broken)]
    entries[0].load = lambda: Source()  # noqa: PLW0108  # an object, not the class
    monkeypatch.setattr(catalog, "_installed", lambda: {entry.name: entry for entry in entries})


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Make a small raw disk."""
    path = tmp_path / "my disk.img"
    path.write_bytes(b"\0" * 512)
    return path


def resolve(image: Any, tmp_path: Path, **declared: Image) -> Image:
    said: list[str] = []
    return catalog.resolve(image, tmp_path, said.append, declared)


def test_names(tmp_path: Path) -> None:
    """Declared names go before installed ones; an installed one may be an image or build one."""
    own = Image(name="own")
    assert resolve("plain", tmp_path).kernel == Path("/boot/vmlinuz")
    assert resolve("built", tmp_path).disk == tmp_path / "disk"
    assert resolve("own", tmp_path, own=own) is own
    assert resolve("plain", tmp_path, plain=own) is own


def test_building_is_told(tmp_path: Path) -> None:
    """What takes long says what it does."""
    said: list[str] = []
    catalog.resolve("built", tmp_path, said.append)
    assert said == [f"building in {tmp_path}"]


def test_a_path(tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Path is always a file; a string is one when it has a slash or exists."""
    for given in (disk, str(disk)):
        image = resolve(given, tmp_path)
        assert (image.name, image.disk, image.format) == ("my disk.img", disk, "raw")
        assert image.provision == "cloud-init"
    monkeypatch.chdir(tmp_path)
    assert resolve("my disk.img", tmp_path).disk == disk
    assert resolve(Path("my disk.img"), tmp_path).disk == disk
    (tmp_path / "plain").write_bytes(b"\0" * 512)
    assert resolve("plain", tmp_path).disk is None
    assert resolve(Path("plain"), tmp_path).disk == tmp_path / "plain"


def test_an_unknown_name(tmp_path: Path) -> None:
    """The nearest name is told, of the declared and the installed ones."""
    with pytest.raises(ConfigError) as caught:
        resolve("plane", tmp_path)
    assert str(caught.value) == (
        'image "plane": no such file, nor an image of that name; did you mean "plain"?'
    )
    with pytest.raises(ConfigError, match='did you mean "ubuntu"'):
        resolve("ubunto", tmp_path, ubuntu=Image(name="ubuntu"))
    with pytest.raises(ConfigError, match="valid: broken, built, plain"):
        resolve("zzz", tmp_path)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    """A slash says that a file is meant."""
    with pytest.raises(ImageError, match=r"^image \./plane: no such file|^image plane: no such file"):
        resolve("./plane", tmp_path)


def test_an_installed_image_that_is_broken(tmp_path: Path) -> None:
    """The package that offers it is to blame, and named."""
    with pytest.raises(ImageError, match=r'^image "broken": somewhere:broken cannot be loaded: no module'):
        resolve("broken", tmp_path)


def test_sources_are_what_can_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain image needs no building; a broken package is named."""
    with pytest.raises(ImageError, match="broken"):
        catalog.sources()
    whole = {name: entry for name, entry in catalog._installed().items() if name != "broken"}
    monkeypatch.setattr(catalog, "_installed", lambda: whole)
    assert list(catalog.sources()) == ["built"]


def test_declaring_a_disk(tmp_path: Path, disk: Path) -> None:
    """``NAME = PATH``, relative to where the configuration lies."""
    name, image = catalog.declare(" mine =  my disk.img ", tmp_path)
    assert (name, image.name, image.disk) == ("mine", "mine", disk)
    assert catalog.declare(f"mine = {disk}", Path("/elsewhere"))[1].disk == disk


def test_declaring_all_of_it(tmp_path: Path, disk: Path) -> None:
    """Every field of an image can be said; what is said goes before what was seen."""
    _, image = catalog.declare(
        "mine = disk=my disk.img,format=raw,firmware=uefi,channels=agent ssh,user=me,memory=2G,"
        "devices=VGA usb-ehci,boot_timeout=90,provision=cloud-init,machine=pc,,usb=off",
        tmp_path,
    )
    assert image.channels == ("agent", "ssh")
    assert image.devices == ("VGA", "usb-ehci")
    assert (image.firmware, image.user, image.memory, image.boot_timeout) == ("uefi", "me", "2G", 90.0)
    assert (image.machine, image.cpu) == ("pc,usb=off", "max")


def test_declaring_a_kernel(tmp_path: Path) -> None:
    """An image need not have a disk."""
    _, image = catalog.declare("k = kernel=vmlinuz,initrd=/boot/initrd,append=quiet", tmp_path)
    assert (image.disk, image.kernel, image.initrd) == (None, tmp_path / "vmlinuz", Path("/boot/initrd"))
    assert image.append == "quiet"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", 'kvm_images: "nothing" declares nothing; write NAME = PATH'),
        ("= x", 'kvm_images: "= x" declares nothing; write NAME = PATH'),
        ("x =", 'kvm_images: "x =" declares nothing; write NAME = PATH'),
        ("m = my disk.img,usr=me", 'kvm_images: m: no option "usr"; did you mean "user"?'),
        ("m = my disk.img,channels=ssh agnet", 'kvm_images: m: no option "agnet"; did you mean "agent"?'),
        (
            "m = my disk.img,boot_timeout=soon",
            'kvm_images: m: "soon" is not a whole number of 1 or more',
        ),
        ("m = my disk.img,user=a,user=b", 'kvm_images: m: "user" is given several times; keep one'),
        (
            "m = my disk.img,provision=cloudinit",
            'kvm_images: m: no option "cloudinit"; did you mean "cloud-init"?',
        ),
    ],
)
def test_wrong_declarations(tmp_path: Path, disk: Path, text: str, message: str) -> None:
    """One line says which declaration is wrong, and how."""
    with pytest.raises(ConfigError) as caught:
        catalog.declare(text, tmp_path)
    assert str(caught.value) == message


def test_a_name_has_one_place(tmp_path: Path, disk: Path) -> None:
    """It stands before the equal sign, not among the fields."""
    with pytest.raises(ConfigError, match='kvm_images: m: no option "name"'):
        catalog.declare("m = my disk.img,name=other", tmp_path)


def test_a_declared_disk_that_is_missing(tmp_path: Path) -> None:
    """The file is named."""
    with pytest.raises(ImageError, match=r"absent\.img: no such file"):
        catalog.declare("m = absent.img", tmp_path)


def test_the_built_in_images_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """``tiny`` and ``debian-12`` come by the same entry points as anybody's."""
    monkeypatch.undo()
    assert {"tiny", "debian-12"} <= set(catalog._installed())
