"""Console, monitor, SSH, files, screen and keyboard: everything a guest can be reached by."""

import socket
import subprocess

import pexpect
import pytest

from pytest_kvm import CommandTimeout


def test_console(guest):
    """The serial console is a pexpect object, and its log has every byte since power-on."""
    guest.run("echo 'hello from'' inside' >/dev/console")
    guest.console.expect(r"hello from (\w+)")
    assert guest.console.match.group(1) == "inside"
    assert guest.console.expect(["never said", pexpect.TIMEOUT], timeout=0.2) == 1
    assert "hello from inside" in guest.console.text
    assert b"hello from inside" in guest.console.log.read_bytes()


def test_monitor(guest):
    """QMP commands and events; HMP for what has no QMP."""
    assert guest.qmp.execute("query-status")["running"] is True
    guest.pause()
    assert guest.qmp.wait_event("STOP")["event"] == "STOP"
    guest.resume()
    assert guest.qmp.wait_event("RESUME")["event"] == "RESUME"
    assert "VM status: running" in guest.hmp("info status")
    assert guest.run("echo awake").stdout == "awake\n"


def test_ssh(guest):
    """A connected paramiko client, and a configuration file for every other SSH tool."""
    _, stdout, _ = guest.ssh.exec_command("hostname")
    assert stdout.read().decode().strip() == guest.name
    words = ["ssh", "-F", str(guest.ssh_config), guest.name, "id -u"]
    assert subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout == "0\n"


def test_files(guest, tmp_path):
    """Files and directories go in and come out."""
    tree = tmp_path / "tree"
    (tree / "sub dir").mkdir(parents=True)
    (tree / "sub dir" / "data").write_bytes(bytes(range(256)) * 100)
    guest.put(tree, "/srv/copy")
    guest.run("echo added >>'/srv/copy/sub dir/data'")
    back = guest.get("/srv/copy", tmp_path / "back")
    assert (back / "sub dir" / "data").read_bytes() == bytes(range(256)) * 100 + b"added\n"


def test_ports(guest):
    """A TCP port of the guest, reachable from here."""
    guest.wait_for_port(22)
    host, port = guest.forward(22)
    assert host == "127.0.0.1"
    assert (host, port) == guest.forward(22)
    with socket.create_connection((host, port), timeout=60) as connection:
        assert connection.recv(8).startswith(b"SSH-2.0-")


@pytest.mark.kvm(devices=["VGA"])
def test_screen_and_keyboard(guest, kvm_artifacts):
    """A screenshot, a key press, and a directory for what shall be looked at later."""
    guest.send_keys("a", "ctrl-alt-f2")
    picture = guest.screenshot()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.parent == kvm_artifacts


def test_balloon(guest):
    """Memory taken back from a running guest."""
    before = guest.qmp.execute("query-balloon")["actual"]
    guest.balloon(before - (64 << 20))
    assert guest.qmp.execute("query-balloon")["actual"] == before - (64 << 20)


def test_waiting(guest):
    """Waiting has a deadline and says what did not come."""
    guest.run("(sleep 0.3; touch /run/appeared) >/dev/null 2>&1 &")
    guest.wait_for_file("/run/appeared")
    guest.run("(sleep 0.3; echo up >/run/state) >/dev/null 2>&1 &")
    assert guest.wait_until_succeeds("grep up /run/state").stdout == "up\n"
    with pytest.raises(CommandTimeout, match=r"file /run/never: not so within 0\.5 s"):
        guest.wait_for_file("/run/never", timeout=0.5)
