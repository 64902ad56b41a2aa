"""``pytest-kvm image build|list|prune``: the images that this host has."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvm.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import argparse


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand and its own."""
    parser = commands.add_parser("image", help="build, list and remove images")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    build = verbs.add_parser("build", help="build an image, or build it anew")
    build.add_argument("name", help="tiny, debian-12, or what a package has added")
    build.add_argument("--kernel", type=Path, metavar="PATH", help="tiny: this kernel instead of Debian's")
    build.add_argument(
        "--busybox", type=Path, metavar="PATH", help="tiny: this static busybox, with --kernel"
    )
    build.add_argument(
        "--modules", type=Path, metavar="DIRECTORY", help="tiny: lib/modules/RELEASE of that kernel"
    )
    build.add_argument("--rebuild", action="store_true", help="also when it is there")
    build.set_defaults(run=run_build)
    verbs.add_parser("list", help="what can be built, and what is").set_defaults(run=run_list)
    prune = verbs.add_parser("prune", help="remove built images that no test would use any more")
    prune.add_argument("--all", action="store_true", help="remove the others too")
    prune.set_defaults(run=run_prune)


def run_build(arguments: argparse.Namespace) -> int:
    """Build an image and print where it is."""
    from pytest_kvm.images import cache, catalog
    from pytest_kvm.images.tiny import TINY

    sources = catalog.sources()
    if arguments.name not in sources:
        raise ConfigError(f'no image "{arguments.name}" to build; {did_you_mean(arguments.name, sources)}')
    place, source = cache.directory(), sources[arguments.name]
    own = (arguments.kernel, arguments.busybox)
    if any(own) or arguments.modules:
        if source is not TINY or not all(own):
            raise ConfigError(
                "--kernel and --busybox go together, with or without --modules, and with tiny alone"
            )
        image = TINY.build_from_files(
            place, kernel=own[0], busybox=own[1], modules_tree=arguments.modules, say=_say
        )
    else:
        if arguments.rebuild:
            shutil.rmtree(source.directory(place), ignore_errors=True)
        image = source.image(place, _say)
    print(f"{image.name}: {image.disk or image.kernel}")
    return 0


def run_list(arguments: argparse.Namespace) -> int:  # noqa: ARG001  # every command gets them
    """Print one line per image: name, size when it is built, description."""
    from pytest_kvm.images import cache, catalog

    for name, source in sorted(catalog.sources().items()):
        target = source.directory(cache.directory())
        state = f"{_size(target) >> 20} MiB" if target.is_dir() else "not built"
        print(f"{name:12} {state:>10}  {source.description}")
    return 0


def run_prune(arguments: argparse.Namespace) -> int:
    """Remove outdated builds, or all, and say how much room that made."""
    from pytest_kvm.images import cache, catalog

    place = cache.directory()
    current = {source.directory(place) for source in catalog.sources().values()}
    freed = 0
    for path in sorted((place / "images").glob("*")):
        if path.is_dir() and (arguments.all or path not in current):
            freed += _size(path)
            shutil.rmtree(path)
            print(f"removed {path.name}")
    print(f"freed {freed >> 20} MiB")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _size(directory: Path) -> int:
    """Return the bytes that a directory takes on disk."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*"))
