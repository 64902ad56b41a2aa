"""From what a test names as its image to the image: a path, a declared name, or an installed one."""

from __future__ import annotations

from dataclasses import fields, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pytest_kvm.config import options
from pytest_kvm.errors import ConfigError, ImageError, did_you_mean
from pytest_kvm.images import firmware, qcow2
from pytest_kvm.images.image import CHANNELS, Image, ImageSource

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        if "/" not in name and not Path(name).exists():
            known = [*(declared or ()), *installed]
            raise ConfigError(
                f'image "{name}": no such file, nor an image of that name; {did_you_mean(name, known)}'
            )
    return from_path(Path(name))


def sources() -> dict[str, ImageSource]:
    """Return the installed images that can be built, by name."""
    loaded = {name: entry.load() for name, entry in _installed().items()}
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
    options.refuse_unknown(given, (field.name for field in fields(Image)), where)
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


def _load(entry: EntryPoint, cache: Path, say: Say) -> Image:
    try:
        found = entry.load()
    except ImportError as error:
        raise ImageError(f'image "{entry.name}": {entry.value} cannot be loaded: {error}') from error
    return found if isinstance(found, Image) else cast("ImageSource", found).image(cache, say)
