"""Whole runs of pytest on real guests: reports, artifacts, xdist, death of pytest itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ARGUMENTS = ("-p", "no:cacheprovider", "-p", "no:asyncio")


def test_report_of_failures(pytester: pytest.Pytester, no_leftovers: Callable[[], None]) -> None:
    """A failed test shows its own lines, the reason and the console; logs are kept; nothing else is left."""
    pytester.makepyfile("""
        import pytest
        def test_command(guest):
            guest.run("echo 'last words' >/dev/console; echo complaint >&2; exit 4")

        @pytest.mark.kvm(extra_args=["-nosuch"])
        def test_setup(guest):
            pass

        def test_passes(guest):
            assert guest.run("nproc").stdout == "1\\n"
    """)
    result = pytester.runpytest_subprocess(*ARGUMENTS, "--junitxml=report.xml")
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "pytest-kvm: QEMU * | tcg (*) | cache *"
            if not _kvm()
            else "pytest-kvm: QEMU * | kvm (*) | cache *",
            "LaunchError: QEMU ended at once (exit code 1): *-nosuch: invalid option",
            "The command was:",
            '>*guest.run("echo*exit 4")',
            "E *CommandError: command returned 4: *",
            "E *stderr:",
            "E *complaint",
            "*serial console (guest0)*",
            "*last words*",
            "pytest-kvm: 2 guests booted, *",
        ]
    )
    assert "pytest_kvm/guest.py" not in result.stdout.str()
    kept = sorted(str(path.relative_to(pytester.path)) for path in pytester.path.glob("kvm-artifacts/*/*/*"))
    logs = "kvm-artifacts/test_report_of_failures.py--test_command/guest0"
    assert [path for path in kept if "test_command" in path] == [
        f"{logs}/argv.txt",
        f"{logs}/console.log",
        f"{logs}/qemu.log",
    ]
    assert not [path for path in kept if "test_passes" in path]
    assert b"last words" in (pytester.path / logs / "console.log").read_bytes()
    no_leftovers()


def _kvm() -> bool:
    from pytest_kvm.images import cache
    from pytest_kvm.qemu import accel, binary

    found, payload = binary.find(), cache.asset("probe/probe.bin")
    return (
        accel.choose("auto", qemu=found, cpu="qemu64", cache=cache.directory(), payload=payload).accel
        == "kvm"
    )


def test_artifacts_of_earlier_runs_are_removed(pytester: pytest.Pytester) -> None:
    """--kvm-keep=always keeps everything until the next run; a directory that is not ours is never emptied."""
    pytester.makepyfile("def test_it(guest, kvm_artifacts): (kvm_artifacts / 'note').write_text('x')")
    pytester.runpytest_subprocess(*ARGUMENTS, "--kvm-keep=always").assert_outcomes(passed=1)
    found = {path.name for path in pytester.path.glob("kvm-artifacts/*/**/*") if path.is_file()}
    assert found == {"note", "argv.txt", "console.log", "qemu.log"}
    pytester.makepyfile("def test_it(): pass")
    pytester.runpytest_subprocess(*ARGUMENTS).assert_outcomes(passed=1)
    assert not list(pytester.path.glob("kvm-artifacts/*/*"))
    pytester.mkdir("precious").joinpath("sub").mkdir()
    pytester.runpytest_subprocess(*ARGUMENTS, "--kvm-artifacts=precious").assert_outcomes(passed=1)
    assert (pytester.path / "precious/sub").is_dir()


def test_workers_build_an_image_once(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two xdist workers with an empty cache make one build, one key and one probe; the summary adds them up."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(pytester.path / "cache"))
    pytester.makepyfile("""
        import pytest
        @pytest.mark.parametrize("n", range(2))
        def test_it(guest, n): assert guest.run("echo ok").stdout == "ok\\n"
    """)
    result = pytester.runpytest_subprocess(*ARGUMENTS, "-n2")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["pytest-kvm: 2 guests booted, *"])
    images = [path for path in pytester.path.glob("cache/pytest-kvm/images/*") if path.is_dir()]
    assert len(images) == 1
    assert {path.name for path in images[0].iterdir()} == {"vmlinuz", "initramfs", "manifest.json"}
    assert not list(pytester.path.glob("cache/pytest-kvm/run/*"))


def test_prepare_and_wider_scopes(pytester: pytest.Pytester) -> None:
    """kvm_prepare runs on each booted guest; a session guest is shared and gone at the end."""
    pytester.makeconftest("""
        import pytest

        @pytest.fixture(scope="session")
        def kvm_prepare():
            def prepare(guest):
                guest.run("echo prepared >/tmp/state")
            return prepare

        @pytest.fixture(scope="module")
        def shared(session_guest_factory):
            return session_guest_factory(name="shared")
    """)
    pytester.makepyfile("""
        def test_one(shared):
            assert shared.run("cat /tmp/state").stdout == "prepared\\n"
            shared.run("echo seen >/tmp/state")
        def test_two(shared):
            assert shared.run("cat /tmp/state").stdout == "seen\\n"
    """)
    result = pytester.runpytest_subprocess(*ARGUMENTS)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["pytest-kvm: 1 guest booted, *"])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_outlives_pytest(
    pytester: pytest.Pytester, no_leftovers: Callable[..., None], number: signal.Signals
) -> None:
    """Whatever signal ends pytest in the middle of a test, no QEMU and no file is left within a second."""
    pytester.makepyfile("""
        import time, pathlib
        def test_it(guest):
            pathlib.Path("running").write_text(str(guest.pid))
            time.sleep(60)
    """)
    words = [sys.executable, "-m", "pytest", *ARGUMENTS]
    process = subprocess.Popen(words, cwd=pytester.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (pytester.path / "running").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    process.wait(20)
    no_leftovers(within=1.0)
    pid = (pytester.path / "running").read_text()
    assert not Path(f"/proc/{pid}/fd/0").exists()


def test_image_by_declared_name_and_path(pytester: pytest.Pytester) -> None:
    """A name from the ini file boots a kernel of one's own with the channels that it says."""
    from pytest_kvm.images import cache
    from pytest_kvm.images.tiny import TINY

    image = TINY.image(cache.directory(), lambda _: None)
    pytester.makeini(f"""
        [pytest]
        kvm_images = own = kernel={image.kernel},initrd={image.initrd},append=console=ttyS0,memory=256M,channels=shell
        kvm_image = own
    """)
    pytester.makepyfile("""
        def test_it(guest):
            assert guest.image.name == "own"
            assert "console=ttyS0" in guest.run("cat /proc/cmdline").stdout
    """)
    pytester.runpytest_subprocess(*ARGUMENTS).assert_outcomes(passed=1)
