"""The error tree: one root, facts as attributes, messages that stand alone."""

from __future__ import annotations

import inspect
import pickle

import pytest

from pytest_kvm import errors
from pytest_kvm.channels.base import timed_out
from pytest_kvm.errors import (
    CommandError,
    CommandTimeout,
    GuestDied,
    KvmError,
    LaunchError,
    QmpError,
    describe_exit,
    did_you_mean,
)
from pytest_kvm.result import make_result

CLASSES = [
    item
    for _, item in inspect.getmembers(errors, inspect.isclass)
    if issubclass(item, BaseException) and item.__module__ == errors.__name__
]


def test_there_is_one_root() -> None:
    """``except KvmError`` catches everything that the project raises."""
    assert len(CLASSES) == 11
    assert all(issubclass(item, KvmError) for item in CLASSES)


def test_the_tree_is_drawn_as_it_is() -> None:
    """The module's docstring names every class, and says which are timeouts."""
    drawing = inspect.getdoc(errors) or ""
    for item in CLASSES:
        (line,) = [
            line
            for line in drawing.splitlines()
            if line.split("─ ")[-1].strip().split()[0:1] == [item.__name__]
        ]
        assert ("(TimeoutError)" in line) == issubclass(item, TimeoutError), item


@pytest.mark.parametrize("name", ["BootTimeout", "ConsoleTimeout", "CommandTimeout"])
def test_timeouts_are_timeouts(name: str) -> None:
    """Each can be caught as Python's own TimeoutError."""
    assert issubclass(getattr(errors, name), TimeoutError)


@pytest.mark.parametrize(
    ("code", "stderr", "message"),
    [
        (1, "warning: x\nqemu: bad option\n", "QEMU ended at once (exit code 1): qemu: bad option"),
        (-6, "", "QEMU ended at once (signal 6): it printed nothing"),
        (None, " \n", "QEMU ended at once (still running): it printed nothing"),
    ],
)
def test_a_failed_launch_shows_the_last_words(code: int | None, stderr: str, message: str) -> None:
    """QEMU's last line is the one that says why."""
    error = LaunchError(argv=["qemu", "-x"], exit_code=code, stderr=stderr)
    assert str(error) == message
    assert (error.argv, error.exit_code, error.stderr) == (("qemu", "-x"), code, stderr)


def test_a_failed_command_shows_what_it_said() -> None:
    """Its status and text in the first line; both outputs, made safe, as notes."""
    result = make_result(["ls", "a b"], 2, b"out\n", b"\x1b[31mno such file\x1b[0m\n")
    error = CommandError(result)
    assert str(error) == "command returned 2: ls 'a b'"
    assert error.__notes__ == ["stderr:\nno such file", "stdout:\nout"]
    assert error.result is result


def test_a_failed_command_that_said_nothing_has_no_notes() -> None:
    """And of one that said too much the end is shown."""
    assert not hasattr(CommandError(make_result("false", 1, b"", b" \n")), "__notes__")
    long = CommandError(make_result("x", 1, b"a" * 5000 + b"end", b""))
    assert long.__notes__[0].endswith("aend")
    assert len(long.__notes__[0]) < 2100


def test_a_command_that_did_not_end_shows_what_it_had_printed() -> None:
    """Apart as attributes, together as a note."""
    error = timed_out(["sleep", "9 9"], 1.5, "was killed", stdout="out\n", stderr="err\x07\n")
    assert isinstance(error, CommandTimeout)
    assert str(error) == "command did not end within 1.5 s and was killed: sleep '9 9'"
    assert (error.stdout, error.stderr) == ("out\n", "err\x07\n")
    assert error.__notes__ == ["It had printed:\nout\nerr\\x07"]
    assert timed_out("x", 1, "was killed").__notes__ == ["It had printed nothing."]


def test_facts_are_attributes() -> None:
    """Nobody has to parse a message."""
    assert GuestDied("gone", why="panic").why == "panic"
    assert QmpError("no", error_class="GenericError").error_class == "GenericError"
    assert QmpError("no").error_class == ""


@pytest.mark.parametrize(
    ("word", "choices", "ending"),
    [
        ("sokets", ["sockets", "cores"], 'did you mean "sockets"?'),
        ("zzz", ["b", "a", "a"], "valid: a, b"),
        ("zzz", [f"name{number}" for number in range(40)], "40 others are valid"),
    ],
)
def test_what_would_have_been_right(word: str, choices: list[str], ending: str) -> None:
    """The nearest choice, or all of them when they are few."""
    assert did_you_mean(word, choices) == ending


@pytest.mark.parametrize(("code", "words"), [(0, "exit code 0"), (-9, "signal 9"), (None, "still running")])
def test_an_end_in_words(code: int | None, words: str) -> None:
    """A signal is told from a status."""
    assert describe_exit(code) == words


@pytest.mark.parametrize(
    "error",
    [
        KvmError("x"),
        errors.BootTimeout("x"),
        CommandTimeout("x", stdout="y"),
    ],
)
def test_simple_errors_survive_being_pickled(error: KvmError) -> None:
    """pytest-xdist and multiprocessing hand exceptions on."""
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
    assert (type(again), str(again)) == (type(error), str(error))
    assert vars(again).get("stdout") == vars(error).get("stdout")
