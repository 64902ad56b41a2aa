"""Choose kernel modules for an initramfs, with what they depend on, and write the lists modprobe reads."""

from __future__ import annotations

import gzip
import lzma
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvm.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# Where a module says what it is: NUL-terminated "key=value" strings in its .modinfo section.
_MODINFO = re.compile(rb"\0(alias|depends)=([^\0]*)(?=\0)")


@dataclass(frozen=True, slots=True)
class Module:
    """A kernel module: where it lies below ``lib/modules/RELEASE``, its content, and what it says."""

    path: str
    data: bytes
    depends: tuple[str, ...]
    aliases: tuple[str, ...]


def choose(tree: Path, names: Iterable[str]) -> dict[str, Module]:
    """Return the named modules that this kernel has as files, and all that they depend on.

    :param tree: ``lib/modules/RELEASE`` of the kernel.
    :param names: without ``.ko``; those built into the kernel, or unknown to it, are passed over.
    """
    files = {_canonical(path.name.partition(".ko")[0]): path for path in sorted(tree.rglob("*.ko*"))}
    chosen: dict[str, Module] = {}

    def add(name: str) -> None:
        if name in chosen or name not in files:
            return
        chosen[name] = module = _read(files[name], tree)
        for dependency in module.depends:
            add(dependency)

    for name in names:
        add(_canonical(name))
    return dict(sorted(chosen.items()))


def dependency_list(modules: dict[str, Module]) -> str:
    """Write ``modules.dep``: what must be there first stands last."""
    lines = []
    for name, module in modules.items():
        needed: list[str] = []
        _add_needed(modules, name, needed)
        lines.append(" ".join([f"{module.path}:", *(modules[other].path for other in reversed(needed))]))
    return "\n".join(lines) + "\n"


def alias_list(modules: dict[str, Module]) -> str:
    """Write ``modules.alias``: which module serves which device."""
    lines = [f"alias {alias} {name}" for name, module in modules.items() for alias in module.aliases]
    return "\n".join(lines) + "\n"


def _add_needed(modules: dict[str, Module], name: str, needed: list[str]) -> None:
    for dependency in modules[name].depends:
        if dependency in modules and dependency not in needed:
            _add_needed(modules, dependency, needed)
            needed.append(dependency)


def _read(path: Path, tree: Path) -> Module:
    data = _uncompressed(path)
    said = [(key, value.decode("ascii", "replace")) for key, value in _MODINFO.findall(data)]
    depends = [word for key, value in said if key == b"depends" for word in value.split(",") if word]
    aliases = [value for key, value in said if key == b"alias"]
    place = str(path.relative_to(tree).with_suffix("") if path.suffix != ".ko" else path.relative_to(tree))
    return Module(place, data, tuple(map(_canonical, depends)), tuple(aliases))


def _uncompressed(path: Path) -> bytes:
    """Return a module's content; busybox loads none that is compressed."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix != ".ko":
        raise ImageError(f"{path}: compressed in a way that is not understood here; unpack it first (unzstd)")
    return data


def _canonical(name: str) -> str:
    return name.replace("-", "_")
