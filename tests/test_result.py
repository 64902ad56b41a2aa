"""What a command returned, and making a guest's text fit to be shown."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvm.result import make_result, printable, readable, shell_text

# Control characters and escape sequences far more often than chance would have them.
noise = st.lists(
    st.one_of(
        st.sampled_from(
            ["\x1b", "\x1b[", "\x1b]", "\x1b[31m", "\x1b]0;t\x07", "\x9b", "\x9d", "\x07", "\r", "\n"]
        ),
        st.characters(codec="utf-8"),
        st.sampled_from("[];0m\\"),
    )
).map("".join)


@given(noise)
@settings(max_examples=300, deadline=None)
def test_printable_text_controls_nothing(text: str) -> None:
    """Neither ESC nor any control character but line feed and tab reaches a terminal."""
    shown = printable(text)
    assert not [char for char in shown if ord(char) < 32 and char not in "\n\t"]
    assert not [char for char in shown if 0x7F <= ord(char) < 0xA0]


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])))
@settings(max_examples=200, deadline=None)
def test_plain_text_stays_as_it_is(text: str) -> None:
    """What controls nothing is not touched, and making it printable twice is making it so once."""
    assert printable(text) == text
    assert printable(printable(f"\x1b[1m{text}\r\n\x00")) == printable(f"\x1b[1m{text}\r\n\x00")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\n", "a\tb\n"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[?25lhidden\x1b[?25h", "hidden"),
        ("\x1bM\x1b[2J\x1b[H", ""),
        ("\x00\x07\x08", "\\x00\\x07\\x08"),
        ("\x1b", "\\x1b"),
        ("\x9b31m", "\\x9b31m"),
        ("größe €", "größe €"),
    ],
)
def test_escape_sequences_vanish_and_other_controls_are_named(text: str, shown: str) -> None:
    """Colours and cursor movements are dropped; a stray control character is shown as what it is."""
    assert printable(text) == shown


@given(st.binary())
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_readable(data: bytes) -> None:
    """Nothing is lost and nothing raises; text that is UTF-8 is just decoded."""
    text = readable(data)
    assert text.encode("utf-8").decode("utf-8") == text
    try:
        assert data.decode() == text
    except UnicodeDecodeError:
        assert "\\x" in text


def test_a_result_keeps_the_bytes() -> None:
    """``stdout`` is for people, ``stdout_bytes`` for programs."""
    result = make_result(["ls", "-l"], 0, b"\xff\n", b"\xfe")
    assert (result.stdout, result.stdout_bytes, result.stderr) == ("\\xff\n", b"\xff\n", "\\xfe")
    assert (result.args, result.returncode) == (["ls", "-l"], 0)


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=10)


@given(st.lists(words, max_size=4), words)
@settings(max_examples=50, deadline=None)
def test_words_and_variables_survive_a_shell(given_words: list[str], value: str) -> None:
    """Whatever they hold, a program behind ``sh`` gets exactly these."""
    script = shell_text(["printf", "%s\\0", *given_words, "end"], {"VALUE": value})
    script += '\nprintf "%s" "$VALUE"'
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True)
    *printed, seen = done.stdout.decode().split("\0")
    assert (printed, seen) == ([*given_words, "end"], value)


def test_shell_text_is_taken_as_it_is() -> None:
    """A string is a script: pipes, globs and all."""
    assert shell_text("ls | wc -l") == "ls | wc -l"
