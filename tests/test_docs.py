"""What README and docs show is run: code blocks named by their first line, on real guests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_kvm.plugin.options import OPTIONS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs/guide.md", ROOT / "docs/options.md"]
_BLOCK = re.compile(r"^```(?:python|ini)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_a_page_pass(page: Path, pytester: pytest.Pytester) -> None:
    """Every named code block of a page passes as it stands; a conftest starts a directory of its own."""
    blocks = _BLOCK.findall(page.read_text())
    assert blocks
    directory, tests = ".", 0
    for name, text in blocks:
        if name == "conftest.py":
            directory = "overriding"
        elif name != "test_overridden.py":
            directory = "."
        path = pytester.path / directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        tests += len(re.findall(r"^def test_", text, re.MULTILINE))
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:asyncio", "-q")
    outcomes = result.parseoutcomes()
    assert set(outcomes) <= {"passed"}
    assert outcomes["passed"] >= tests > 0


def test_every_option_is_documented() -> None:
    """docs/options.md has a row for each option, with the same words as --help."""
    page = (ROOT / "docs/options.md").read_text()
    for option in OPTIONS:
        assert f"| `--kvm-{option.name}" in page
        assert option.help in page


def test_the_project_speaks_of_itself_alone() -> None:
    """No file has a path of the machine that it was written on."""
    for path in ROOT.rglob("*"):
        if (
            path.suffix in {".py", ".md", ".toml", ".S"}
            and ".venv" not in path.parts
            and path != Path(__file__)
        ):
            assert "/work/" not in path.read_text(), path
