"""The README's first test, and the ways to run a command."""

import pytest

from pytest_kvm import CommandError, CommandTimeout


def test_kernel(guest):
    assert guest.run("uname -s").stdout == "Linux\n"


def test_commands(guest):
    result = guest.run("echo out; echo err >&2; exit 3", check=False)
    assert (result.returncode, result.stdout, result.stderr) == (3, "out\n", "err\n")
    assert guest.run(["printf", "%s|", "a b", "it's", "$HOME"]).stdout == "a b|it's|$HOME|"
    assert guest.run("cat", input="typed\n").stdout == "typed\n"
    assert guest.run("echo $COLOUR", env={"COLOUR": "blue"}).stdout == "blue\n"
    with pytest.raises(CommandError, match="returned 4"):
        guest.run("exit 4")
    with pytest.raises(CommandTimeout):
        guest.run("sleep 60", timeout=1)
    assert guest.run("echo still there").stdout == "still there\n"
