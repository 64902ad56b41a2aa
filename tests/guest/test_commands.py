"""Commands, files and ports of a real guest."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from pytest_kvm import CommandError, CommandTimeout, KvmError, QmpError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_kvm import Guest


@pytest.fixture(scope="module")
def tiny(session_guest_factory: Callable[..., Guest]) -> Iterator[Guest]:
    """One guest for this module: the tests here change nothing that another one looks at."""
    with session_guest_factory(name="commands", netdevs=["user"]) as guest:
        yield guest


def test_streams_status_and_bytes(tiny: Guest) -> None:
    """Output and error are apart, bytes are kept, undecodable ones stay readable."""
    result = tiny.run(r"printf 'a\377\000b'; printf 'e\n' >&2; exit 7", check=False)
    assert result.stdout_bytes == b"a\xff\0b"
    assert (result.stdout, result.stderr, result.returncode) == ("a\\xff\0b", "e\n", 7)


def test_commands_of_any_shape(tiny: Guest) -> None:
    """Newlines, quotes, here-documents and words reach the guest as they are."""
    assert tiny.run('for i in 1 2\ndo\n  echo "$i"\ndone').stdout == "1\n2\n"
    assert tiny.run("cat <<'END'\n$HOME `x` \\\nEND").stdout == "$HOME `x` \\\n"
    nasty = ["printf", "%s|", "", " a  b ", "it's", 'say "x"', "$(id)", "new\nline", "a,b=c;d&e", "\\n", "ü"]
    assert tiny.run(nasty).stdout == "".join(f"{word}|" for word in nasty[2:])
    assert tiny.run("echo $V", env={"V": "it's a\nb"}).stdout == "it's a b\n"
    assert tiny.run("true", input=b"unread").returncode == 0
    data = bytes(range(256)) * 8192
    assert tiny.run("cat", input=data).stdout_bytes == data


def test_big_output_is_whole(tiny: Guest) -> None:
    """Eight megabytes on one stream and some on the other arrive complete and apart."""
    result = tiny.run("head -c 8388608 /dev/zero; echo done >&2", timeout=120)
    assert len(result.stdout_bytes) == 8 << 20
    assert not result.stdout_bytes.strip(b"\0")
    assert result.stderr == "done\n"


def test_timeout_kills_the_command_and_its_children(tiny: Guest) -> None:
    """After CommandTimeout nothing of the command runs, what it printed is told, and the next one works."""
    with pytest.raises(
        CommandTimeout, match=r"did not end within 0\.5 s and was killed: echo begun"
    ) as caught:
        tiny.run("echo begun; sleep 4321 & sh -c 'sleep 4321; true'; true", timeout=0.5)
    assert caught.value.stdout.startswith("begun\n")
    assert "begun" in caught.value.__notes__[0]
    assert tiny.run("pgrep -f 'sleep 432[1]' || ps | grep -c 'sleep 432[1]'", check=False).stdout == "0\n"


def test_failure_carries_the_result(tiny: Guest) -> None:
    """CommandError says what was run, what it returned, and shows its output without escape sequences."""
    with pytest.raises(CommandError, match="command returned 5: ") as caught:
        tiny.run(r"printf '\033[31mred\n' >&2; exit 5")
    assert caught.value.result.returncode == 5
    assert caught.value.__notes__ == ["stderr:\nred"]


def test_threads_share_a_guest(tiny: Guest) -> None:
    """Commands from several threads take turns and each gets its own output."""
    answers: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda n=n: answers.__setitem__(n, tiny.run(f"echo {n}").stdout))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: f"{n}\n" for n in range(8)}


def test_files_both_ways(tiny: Guest, tmp_path: Path) -> None:
    """A tree with odd names, modes, links and a file of several pieces comes back as it went."""
    tree = tmp_path / "tree"
    (tree / "with space" / "empty").mkdir(parents=True)
    (tree / "it's\nodd").write_bytes(b"\0\xff" * 10)
    (tree / "with space" / "big").write_bytes(bytes(range(256)) * (9 << 12))
    (tree / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (tree / "run.sh").chmod(0o755)
    (tree / "link").symlink_to("run.sh")
    tiny.put(tree, "/srv/deep/tree")
    assert tiny.run("/srv/deep/tree/link").stdout == "ran\n"
    back = tiny.get("/srv/deep/tree", tmp_path / "back")
    before = {p.relative_to(tree): p.read_bytes() for p in tree.rglob("*") if p.is_file()}
    assert before == {p.relative_to(back): p.read_bytes() for p in back.rglob("*") if p.is_file()}
    assert (back / "link").readlink().name == "run.sh"
    with pytest.raises(CommandError, match="nosuch"):
        tiny.get("/nosuch", tmp_path)


def test_ssh_kills_and_separates_too(tiny: Guest) -> None:
    """SSH as the channel of ``run`` behaves like the fast one."""
    from pytest_kvm.channels.ssh import SshShell

    channel = SshShell(tiny._ssh_login())
    try:
        channel.wait_ready(60)
        result = channel.run("cat; echo e >&2; exit 3", timeout=30, input=b"in\xff" * 50000)
        assert (result.returncode, result.stdout_bytes, result.stderr) == (3, b"in\xff" * 50000, "e\n")
        with pytest.raises(CommandTimeout, match="was killed"):
            channel.run("echo begun; sleep 6543 & sleep 6543", timeout=2)
        assert tiny.run("ps | grep -c 'sleep 654[3]'", check=False).stdout == "0\n"
    finally:
        channel.close()


def test_monitor_errors_have_qemus_class(tiny: Guest) -> None:
    """An unknown command and a wrong argument are QmpErrors that say which."""
    with pytest.raises(QmpError, match="query-nosuch") as caught:
        tiny.qmp.execute("query-nosuch")
    assert caught.value.error_class == "CommandNotFound"
    with pytest.raises(KvmError, match=r'a video card is devices=\["VGA"\]'):
        tiny.screenshot()


@pytest.mark.asyncio
async def test_usable_inside_a_running_event_loop(tiny: Guest) -> None:
    """The synchronous face works where an event loop already runs."""
    assert tiny.qmp.execute("query-status")["running"] is True
    assert (await asyncio.to_thread(tiny.run, "echo aside")).stdout == "aside\n"
    assert tiny.run("echo here").stdout == "here\n"


def test_views_through_sys(tiny: Guest) -> None:
    """Tiny shows PCI devices and SMBIOS strings, and has the drivers that it promises."""
    assert "1af4:1000" in tiny.run("lspci").stdout
    assert tiny.run("dmidecode -s system-manufacturer").stdout == "QEMU\n"
    assert "product_name: " in tiny.run("dmidecode").stdout
    modules = tiny.run("cut -d' ' -f1 /proc/modules").stdout.split()
    for name in (
        "virtio_net",
        "virtio_console",
        "virtio_rng",
        "virtio_balloon",
        "pvpanic_pci",
        "qemu_fw_cfg",
    ):
        assert name in modules
    assert tiny.run("head -c 4 /dev/hwrng | wc -c").stdout == "4\n"
    assert tiny.run("hostname").stdout == "commands\n"
