"""From what a test names as its image to the image: a path, a declared name, or an installed one."""

from __future__ import annotations

from dataclasses import fields, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pytest_kvm.config import options
from pytest_kvm.errors import ConfigError, ImageError, did_you_mean
from pytest_kvm.images import firmware, qcow2
from pytest_kvm.images.image import CHANNELS, PROVISIONS, Image, ImageSource

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pytest_kvm.config import GuestConfig
    from pytest_kvm.images.image import Say

DEFAULT = "tiny"
GROUP = "pytest_kvm.images"
_PATHS = ("disk", "kernel", "initrd")


def resolve(
    image: str | Path | None, cache: Path, say: Say, declared: Mapping[str, Image] | None = None
) -> Image:
    """Return the image that a name or path stands for; a built-in one is built the first time.

    :param image: a path, or a name: of the declared ones first, then of the installed ones.
    :param declared: images that the user's configuration names.
    :raise ConfigError: for a name that nobody knows.
    :raise ImageError: for a file that is missing or no disk.
    """
    name = DEFAULT if image is None else str(image)
    if not isinstance(image, Path):
        if declared and name in declared:
            return declared[name]
        if name in (installed := _installed()):
            return _load(installed[name], cache, say)
    _check_image(name if image is None else image, declared or ())
    return from_path(Path(name))


def check_found(config: GuestConfig, declared: Collection[str]) -> None:
    """Refuse an image, kernel or initrd that is not there, without building or opening anything.

    :param declared: names of the images that the user's configuration declares.
    :raise ConfigError: for a name that nobody knows, with the nearest one.
    :raise ImageError: for a file that is missing.
    """
    if config.image is not None:
        _check_image(config.image, declared)
    for what, path in (("kernel", config.kernel), ("initrd", config.initrd)):
        if path is not None and not path.is_file():
            raise ImageError(f"{what} {path}: no such file")


def _check_image(image: str | Path, declared: Collection[str]) -> None:
    if Path(image).exists() or (isinstance(image, str) and image in declared):
        return
    installed = _installed()
    if isinstance(image, Path) or "/" in image:
        raise ImageError(f"image {image}: no such file")
    if image not in installed:
        hint = did_you_mean(image, [*declared, *installed])
        raise ConfigError(f'image "{image}": no such file, nor an image of that name; {hint}')


def sources() -> dict[str, ImageSource]:
    """Return the installed images that can be built, by name."""
    loaded = {name: _loaded(entry) for name, entry in _installed().items()}
    return {name: source for name, source in loaded.items() if not isinstance(source, Image)}


def from_path(path: Path, declared_format: str | None = None) -> Image:
    """Describe a disk as far as it can be seen: a cloud image with cloud-init, unless told otherwise.

    :raise ImageError: when it is missing or no disk.
    """
    info = qcow2.inspect(path, declared_format)
    return Image(
        name=path.name,
        disk=path.absolute(),
        format=info.format,
        firmware=firmware.wanted_by(path, info.format),
        machine="q35",
        # What distributions of today are compiled for (x86-64-v2 and v3) is more than QEMU's default model.
        cpu="max",
        memory="1G",
        devices=("VGA",),
        append="console=ttyS0",
        channels=("shell", "ssh"),
        provision="cloud-init",
        boot_timeout=120,
    )


def declare(text: str, base: Path) -> tuple[str, Image]:
    """Read a declaration: ``NAME = DISK`` or ``NAME = disk=...,firmware=uefi,channels=agent ssh``.

    :param base: directory that relative paths start from.
    :raise ConfigError: for an unknown field or a wrong value.
    :raise ImageError: when the disk is missing.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name or not value:
        raise ConfigError(f'kvm_images: "{text}" declares nothing; write NAME = PATH')
    given: dict[str, object] = dict(options.parse(value, implied="disk"))
    where = f"kvm_images: {name}"
    options.refuse_unknown(given, (field.name for field in fields(Image) if field.name != "name"), where)
    if repeated := next((key for key, said in given.items() if isinstance(said, list)), None):
        raise ConfigError(f'{where}: "{repeated}" is given several times; keep one')
    if "provision" in given:
        options.refuse_unknown([str(given["provision"])], PROVISIONS, where)
    for key in _PATHS:
        if key in given:
            given[key] = base / str(given[key])
    if "channels" in given:
        given["channels"] = tuple(str(given["channels"]).split())
        options.refuse_unknown(cast("tuple[str, ...]", given["channels"]), CHANNELS, where)
    if "devices" in given:
        given["devices"] = tuple(str(given["devices"]).split())
    if "boot_timeout" in given:
        given["boot_timeout"] = float(options.number(given["boot_timeout"], where, least=1))
    if "disk" not in given:
        return name, Image(name=name, **given)  # type: ignore[arg-type]
    found = from_path(cast("Path", given.pop("disk")), cast("str | None", given.pop("format", None)))

    return name, replace(found, name=name, **given)  # type: ignore[arg-type]


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _loaded(entry: EntryPoint) -> Image | ImageSource:
    try:
        return cast("Image | ImageSource", entry.load())
    except (ImportError, AttributeError) as error:
        raise ImageError(f'image "{entry.name}": {entry.value} cannot be loaded: {error}') from error


def _load(entry: EntryPoint, cache: Path, say: Say) -> Image:
    found = _loaded(entry)
    return found if isinstance(found, Image) else found.image(cache, say)
