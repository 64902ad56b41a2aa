"""What the fixture costs on top of QEMU and the guest themselves: ``python benchmarks/boot.py [ROUNDS]``.

Each figure is a ratio of two things measured in turn in the same run, since machines are noisy:

* the fixture ``guest`` until its first ``run`` is answered, against a bare script that starts QEMU with the
  same arguments and waits for the same answer from the shell on the console;
* the guest tiny until its command shell is ready, against the same kernel with an initramfs that holds
  nothing but busybox, until its first line;
* ``pytest --collect-only`` over 200 plain tests with the plugin and without.
"""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import pytest

from pytest_kvm.images import cache
from pytest_kvm.images.initramfs import Initramfs
from pytest_kvm.images.tiny import TINY

PLAIN_SUITE = "\n".join(f"def test_{number}(): pass" for number in range(200))


def bare(
    argv: list[str], awaited: bytes, question: bytes = b"", answer: bytes = b"", *, port: str = "console"
) -> float:
    """Start QEMU, wait until a port says something, perhaps ask and wait for the answer; return seconds."""
    began = time.monotonic()
    pairs: dict[str, tuple[socket.socket, socket.socket]] = {}
    words = []
    for word in argv:
        name = re.match(r"socket,id=(\w+),fd=", word)
        if name:
            pairs[name[1]] = socket.socketpair()
            words.append(f"{name[0]}{pairs[name[1]][1].fileno()}")
        else:
            words.append(word)
    qemu = subprocess.Popen(words, pass_fds=[theirs.fileno() for _, theirs in pairs.values()])
    try:
        _read_until(pairs, port, awaited)
        if question:
            pairs[port][0].sendall(question)
            _read_until(pairs, port, answer)
        return time.monotonic() - began
    finally:
        qemu.kill()
        qemu.wait()
        for pair in pairs.values():
            for end in pair:
                end.close()


def _read_until(pairs: dict[str, tuple[socket.socket, socket.socket]], port: str, awaited: bytes) -> None:
    """Drain every port, since a guest stops when its console is not read, until one has said the words."""
    seen, watched = b"", [ours for ours, _ in pairs.values()]
    while awaited not in seen:
        for ready in select.select(watched, [], [])[0]:
            data = ready.recv(65536)
            seen += data if ready is pairs[port][0] else b""


def only_busybox(directory: Path) -> Path:
    """Write an initramfs that holds busybox and says READY."""
    archive = Initramfs()
    tiny = TINY.image(cache.directory(), print)
    assert tiny.initrd is not None
    archive.character_device("dev/console", 5, 1)
    archive.directory("dev")
    archive.file("bin/busybox", _from_cpio(tiny.initrd.read_bytes(), b"usr/bin/busybox"), 0o755)
    archive.symlink("bin/sh", "busybox")
    archive.file("init", "#!/bin/sh\necho READY\nexec sh\n", 0o755)
    path = directory / "only-busybox"
    path.write_bytes(archive.to_bytes())
    return path


def _from_cpio(archive: bytes, wanted: bytes) -> bytes:
    position = 0
    while True:
        size, length = (int(archive[position + at : position + at + 8], 16) for at in (54, 94))
        name = archive[position + 110 : position + 110 + length - 1]
        start = position + (110 + length + 3) // 4 * 4
        if name == wanted:
            return archive[start : start + size]
        position = start + (size + 3) // 4 * 4


@pytest.fixture(scope="module")
def figures(request):
    """Collect seconds by name, and print medians and ratios at the end."""
    found: dict[str, list[float]] = {}
    yield found
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print()
        for name, against in (("fixture", "bare"), ("tiny", "only busybox")):
            a, b = median(found[name]), median(found[against])
            ratios = [x / y for x, y in zip(found[name], found[against], strict=True)]
            print(f"{name}: {a:.3f} s, {against}: {b:.3f} s, ratio {median(ratios):.3f} "
                  f"({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} pairs)")  # fmt: skip


@pytest.fixture(scope="module")
def argv(session_guest_factory):
    """Return the command line of a default guest."""
    with session_guest_factory() as guest:
        return guest.argv


def test_fixture(request, argv, figures, round_):
    """The bare script and the fixture, in turn."""
    bare_seconds = bare(argv, b"tiny# ", b"echo o''k\n", b"\nok")
    figures.setdefault("bare", []).append(bare_seconds)
    began = time.monotonic()
    guest = request.getfixturevalue("guest")
    assert guest.run("echo ok").stdout == "ok\n"
    figures.setdefault("fixture", []).append(time.monotonic() - began)


def test_tiny(argv, figures, tmp_path, round_):
    """Tiny until it is ready, and the least that boots."""
    small = list(argv)
    small[small.index("-initrd") + 1] = str(only_busybox(tmp_path))
    figures.setdefault("only busybox", []).append(bare(small, b"READY"))
    figures.setdefault("tiny", []).append(bare(argv, b"ready", port="port0"))


def pytest_generate_tests(metafunc):
    """Repeat each measurement."""
    metafunc.parametrize("round_", range(ROUNDS))


def collect(directory: Path, *options: str) -> float:
    """Return the seconds that pytest takes to collect the plain suite, with no plugin but those named."""
    began = time.monotonic()
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    alone.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling at every start is no cost of a plugin
    subprocess.run(words, cwd=directory, check=True, stdout=subprocess.DEVNULL, env=alone)
    return time.monotonic() - began


def main() -> None:
    """Measure everything and print it."""
    words = [sys.executable, "-m", "pytest", __file__, "-q", "-p", "no:cacheprovider"]
    subprocess.run(words, check=True, env={**os.environ, "BOOT_ROUNDS": str(ROUNDS)})
    with tempfile.TemporaryDirectory() as name:
        Path(name, "test_plain.py").write_text(PLAIN_SUITE)
        pairs = [
            (collect(Path(name), "-p", "pytest_kvm.plugin"), collect(Path(name))) for _ in range(4 * ROUNDS)
        ][1:]
    cost = median(with_ - without for with_, without in pairs)
    without = median(without for _, without in pairs)
    print(
        f"collection of 200 plain tests: {without * 1000:.0f} ms without the plugin, "
        f"{cost * 1000:+.0f} ms with it"
    )
    size = sum(path.stat().st_size for path in TINY.directory(cache.directory()).iterdir())
    print(f"tiny on disk: {size / (1 << 20):.1f} MiB")


ROUNDS = int(sys.argv[1] if __name__ == "__main__" and sys.argv[1:] else os.environ.get("BOOT_ROUNDS", "10"))

if __name__ == "__main__":
    main()
