"""pytest's face of pytest-kvm: hooks that hand over to the modules beside this one.

options -> dimensions (marker, parametrization) -> fixtures (config, factory, guest) -> report. Nothing that
talks to a guest is imported before a test asks for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_kvm.plugin import dimensions, options, report
from pytest_kvm.plugin.home import empty_artifacts, tally

if TYPE_CHECKING:
    from collections.abc import Generator

pytest_plugins = ["pytest_kvm.plugin.fixtures"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register options and ini values."""
    options.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and refuse options that cannot be right."""
    config.addinivalue_line("markers", dimensions.MARKER_HELP)
    options.resolve(config)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Have the controller, and it alone, remove what earlier runs kept."""
    if not hasattr(session.config, "workerinput"):
        empty_artifacts(session.config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests over the values of options that were given several times."""
    dimensions.generate(metafunc)


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> str | None:
    """Say which QEMU and accelerator the guests get, when there are tests that want one."""
    if config.option.collectonly or not any(map(report.uses_guests, items)):
        return None
    return report.header(config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the consoles to a failure, and let an error of ours speak for itself."""
    excinfo = call.excinfo
    if excinfo is None or excinfo.errisinstance(pytest.skip.Exception):
        return (yield)
    report.add_console_sections(item, call.when)
    if not report.is_ours(excinfo.value) or item.config.getoption("fulltrace"):
        return (yield)
    with report.to_the_point(call, excinfo):
        made = yield
        if call.when != "call":
            made.longrepr = report.words_only(excinfo.value)
        return made


def pytest_exception_interact(node: Any, call: pytest.CallInfo[Any]) -> None:
    """Show the consoles before the debugger starts."""
    config = node.config
    if config.getoption("usepdb", False) and isinstance(node, pytest.Item) and call.excinfo:
        report.show_consoles([node], config.pluginmanager.getplugin("terminalreporter"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many guests ran."""
    if line := report.summary(config):
        terminalreporter.write_line(line)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add up what a worker's guests did (pytest-xdist)."""
    done = getattr(node, "workeroutput", {}).get("kvm")
    if done:
        tally(node.config).add(**done)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the controller what this worker's guests did (pytest-xdist)."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["kvm"] = tally(session.config).as_dict()
