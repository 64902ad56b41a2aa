"""Options, ini twins, marker and dimensions, as a user of pytest meets them; no guest is started here."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ARGUMENTS = ("-p", "no:cacheprovider", "-p", "no:asyncio")
SHOW_CONFIG = """
    def test_config(guest_config):
        c = guest_config
        print("\\nCONFIG", c.image, c.machine, c.cpu, c.smp, c.memory, c.accel, c.append, c.extra_args, sep="|")
"""


def shown(result: pytest.RunResult) -> list[str]:
    """Return what the tests printed of their configs."""
    return [line.removeprefix("CONFIG|") for line in result.outlines if line.startswith("CONFIG|")]


def test_nothing_given_leaves_everything_open(pytester: pytest.Pytester) -> None:
    """Without options every choice is the image's and QEMU's."""
    pytester.makepyfile(SHOW_CONFIG)
    result = pytester.runpytest(*ARGUMENTS, "-s")
    assert shown(result) == ["None|None|None|None|None|None|None|()"]


def test_options_reach_the_config(pytester: pytest.Pytester) -> None:
    """One value per option sets the field and leaves the test's id as it is; --kvm-qemu-arg adds up."""
    pytester.makepyfile(SHOW_CONFIG)
    words = ["--kvm-machine=q35,hpet=off", "--kvm-cpu=Nehalem,+aes", "--kvm-smp=2", "--kvm-memory=1024"]
    words += ["--kvm-accel=tcg", "--kvm-append=debug x", "--kvm-qemu-arg=-name", "--kvm-qemu-arg=a b"]
    result = pytester.runpytest(*ARGUMENTS, "-s", "-v", *words)
    result.stdout.fnmatch_lines(["*::test_config *"])
    assert shown(result) == ["None|q35,hpet=off|Nehalem,aes=on|2|1G|tcg|debug x|('-name', 'a b')"]


def test_every_option_has_an_ini_twin(pytester: pytest.Pytester) -> None:
    """The ini file sets the same fields, and the command line goes first."""
    pytester.makeini("""
        [pytest]
        kvm_machine = pc
        kvm_smp = 4,sockets=2
        kvm_memory = 300M
        kvm_accel = tcg
        kvm_append = quiet
        kvm_qemu_arg =
            -boot
            order=c
    """)
    pytester.makepyfile(SHOW_CONFIG)
    result = pytester.runpytest(*ARGUMENTS, "-s", "--kvm-memory=2G")
    assert shown(result) == ["None|pc|None|4,sockets=2|2G|tcg|quiet|('-boot', 'order=c')"]


def test_repeated_options_multiply_tests(pytester: pytest.Pytester) -> None:
    """Each combination of values is one test, with the values in its id."""
    pytester.makepyfile(SHOW_CONFIG)
    words = ["--kvm-cpu=qemu64", "--kvm-cpu=Nehalem", "--kvm-smp=1", "--kvm-smp=4,sockets=2,cores=2"]
    result = pytester.runpytest(*ARGUMENTS, "-s", "-v", *words)
    result.assert_outcomes(passed=4)
    ids = {line.split("[")[1].split("]")[0] for line in result.outlines if "::test_config[" in line}
    assert ids == {"qemu64-1", "qemu64-4,sockets=2,cores=2", "Nehalem-1", "Nehalem-4,sockets=2,cores=2"}
    assert sorted(line.split("|")[2] for line in shown(result)) == ["Nehalem", "Nehalem", "qemu64", "qemu64"]


def test_ini_lists_multiply_too(pytester: pytest.Pytester) -> None:
    """Several lines in the ini file are several values."""
    pytester.makeini("[pytest]\nkvm_smp =\n    1\n    2\n")
    pytester.makepyfile(SHOW_CONFIG)
    pytester.runpytest(*ARGUMENTS).assert_outcomes(passed=2)


def test_pinned_dimensions_are_not_multiplied(pytester: pytest.Pytester) -> None:
    """A marker, a parametrization and an overridden fixture each pin a dimension."""
    pytester.makepyfile(
        test_marker="""
            import pytest
            @pytest.mark.kvm(smp=3)
            def test_m(guest_config): assert guest_config.smp.count == 3
        """,
        test_parametrized="""
            import pytest
            @pytest.mark.parametrize("kvm_smp", ["5", "6"])
            def test_p(guest_config, kvm_smp): assert str(guest_config.smp) == kvm_smp
        """,
        test_overridden="""
            import pytest
            @pytest.fixture
            def kvm_smp(): return 7
            def test_o(guest_config): assert guest_config.smp.count == 7
        """,
        test_free="def test_f(guest_config): assert guest_config.smp.count in (1, 2)",
        test_plain="def test_n(): pass",
    )
    pytester.runpytest(*ARGUMENTS, "--kvm-smp=1", "--kvm-smp=2").assert_outcomes(passed=1 + 2 + 1 + 2 + 1)


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="before pytest 9 its closure lacks what it overrides")
def test_overriding_fixture_may_build_on_ours(pytester: pytest.Pytester) -> None:
    """A fixture that asks for the one it overrides is run over the option's values."""
    pytester.makepyfile("""
        import pytest
        @pytest.fixture
        def kvm_smp(kvm_smp): return f"{int(kvm_smp) * 2}"
        def test_doubled(guest_config): print("\\nCONFIG", guest_config.smp, sep="|")
    """)
    assert shown(pytester.runpytest(*ARGUMENTS, "-s", "--kvm-smp=1", "--kvm-smp=2")) == ["2", "4"]


def test_nearest_marker_wins_field_by_field(pytester: pytest.Pytester) -> None:
    """Function before class before module before command line; fields that are not repeated add up."""
    pytester.makepyfile("""
        import pytest
        pytestmark = pytest.mark.kvm(smp=2, memory="300M", append="module")

        @pytest.mark.kvm(smp=3, append="class")
        class TestClass:
            @pytest.mark.kvm(smp=4)
            def test_it(self, guest_config):
                assert (guest_config.smp.count, guest_config.memory, guest_config.append) == (4, "300M", "class")
                assert guest_config.cpu.model == "Nehalem"
    """)
    pytester.runpytest(*ARGUMENTS, "--kvm-memory=1G", "--kvm-cpu=Nehalem").assert_outcomes(passed=1)


def test_factory_arguments_go_first(pytester: pytest.Pytester) -> None:
    """What guest_factory is given beats marker and options; names count up and are taken once."""
    pytester.makepyfile("""
        import pytest
        from pytest_kvm import ConfigError

        @pytest.mark.kvm(smp=2, memory="300M")
        def test_it(guest_factory):
            first, second = guest_factory(start=False), guest_factory(start=False, smp=4, drives=["size=1M"])
            assert (first.name, first.config.smp.count, first.config.memory) == ("guest0", 2, "300M")
            assert (second.name, second.config.smp.count, second.config.memory) == ("guest1", 4, "300M")
            with pytest.raises(ConfigError, match='"guest1" is taken'):
                guest_factory(name="guest1", start=False)
            with pytest.raises(ConfigError, match='did you mean "memory"'):
                guest_factory(memry="1G", start=False)
    """)
    pytester.runpytest(*ARGUMENTS).assert_outcomes(passed=1)


def test_a_suite_with_its_own_guest_still_works(pytester: pytest.Pytester) -> None:
    """No fixture of ours asks for ``guest`` by name."""
    pytester.makepyfile("""
        import pytest
        @pytest.fixture
        def guest(guest_factory): return guest_factory(name="mine", start=False)
        def test_it(guest): assert guest.name == "mine"
    """)
    pytester.runpytest(*ARGUMENTS).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--kvm-machine=q36"],
            'ERROR: --kvm-machine: machine "q36": unknown to QEMU *; did you mean "q35"?',
        ),
        (
            ["--kvm-cpu=Nehalen"],
            'ERROR: --kvm-cpu: cpu "Nehalen": unknown to QEMU *; did you mean "Nehalem"?',
        ),
        (["--kvm-smp=5,sockets=2"], "ERROR: --kvm-smp: smp: sockets=2 makes 2 processors, cpus says 5*"),
        (
            ["--kvm-smp=1", "--kvm-smp=4,sokets=2"],
            'ERROR: --kvm-smp: *no option "sokets"; did you mean "sockets"?',
        ),
        (["--kvm-memory=lots"], 'ERROR: --kvm-memory: memory: "lots" is not a size*'),
        (["--kvm-accel=xen"], 'ERROR: --kvm-accel: *"xen"*auto, kvm, tcg'),
        (["--kvm-keep=some"], 'ERROR: --kvm-keep: "some" is none of failed, always, never'),
        (["--kvm-boot-timeout=-1"], "ERROR: --kvm-boot-timeout: *-1*not a number above 0"),
        (["--kvm-timeout-scale=x"], "ERROR: --kvm-timeout-scale: *x*not a number above 0"),
        (
            ["--kvm-image=nosuch"],
            'ERROR: --kvm-image: image "nosuch": no such file, nor an image of that name*',
        ),
        (["--kvm-image=debian-21"], 'ERROR: --kvm-image: *did you mean "debian-12"?'),
        (["--kvm-image=./no/such.qcow2"], "ERROR: --kvm-image: image ./no/such.qcow2: no such file"),
        (["--kvm-kernel=/no/kernel"], "ERROR: --kvm-kernel: kernel /no/kernel: no such file"),
    ],
)
def test_wrong_options_end_the_run_in_one_line(
    pytester: pytest.Pytester, words: list[str], message: str
) -> None:
    """A usage error names the option, the value and the remedy, before anything is collected."""
    pytester.makepyfile(SHOW_CONFIG)
    result = pytester.runpytest(*ARGUMENTS, *words)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    assert len([line for line in result.errlines if line.strip()]) <= 2


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ("nonsense", "*kvm_images: *declares nothing; write NAME = PATH"),
        ("x = dsk=a.img", '*no option "dsk"; did you mean "disk"?'),
        ("x = kernel=k,channels=shel", '*did you mean "shell"?'),
        ("x = nosuch.img", "*nosuch.img: no such file"),
    ],
)
def test_wrong_image_declarations_name_the_line(
    pytester: pytest.Pytester, declaration: str, message: str
) -> None:
    """A declared image that cannot be is told when the first guest is asked for."""
    pytester.makeini(f"[pytest]\nkvm_images = {declaration}\n")
    pytester.makepyfile("def test_it(guest_factory): guest_factory(start=False)")
    result = pytester.runpytest(*ARGUMENTS)
    assert result.ret != 0
    (result.stderr if result.ret == pytest.ExitCode.USAGE_ERROR else result.stdout).fnmatch_lines([message])


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (
            "@pytest.mark.kvm(sm=4)\ndef test_it(guest): pass",
            '*test_it: *no option "sm"; did you mean "smp"?',
        ),
        ("@pytest.mark.kvm(4)\ndef test_it(guest): pass", "*takes fields only, not 4; write kvm(smp=...)"),
        ("@pytest.mark.kvm(machine='q36')\ndef test_it(guest): pass", '*did you mean "q35"?'),
        ("@pytest.mark.kvm(drives='a.img')\ndef test_it(guest): pass", "*drives: 'a.img' is not a list*"),
        (
            "@pytest.mark.parametrize('kvm_smp', ['0'])\ndef test_it(guest, kvm_smp): pass",
            '*"0" is not a whole number*',
        ),
    ],
)
def test_wrong_markers_are_collection_errors(pytester: pytest.Pytester, test: str, message: str) -> None:
    """A marker or parameter that cannot be right names the test, the value and the remedy."""
    pytester.makepyfile("import pytest\n" + test)
    result = pytester.runpytest(*ARGUMENTS)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])


def test_a_run_without_guests_loads_nothing_heavy(pytester: pytest.Pytester) -> None:
    """Neither the libraries that talk to guests nor our own modules for them are imported."""
    pytester.makepyfile("""
        import sys
        def test_nothing_loaded():
            heavy = {"paramiko", "qemu.qmp", "pexpect", "cryptography", "pycdlib", "filelock", "platformdirs"}
            heavy |= {"pytest_kvm.guest", "pytest_kvm.config", "pytest_kvm.channels", "pytest_kvm.images"}
            assert not heavy & set(sys.modules)
    """)
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    words = [sys.executable, "-m", "pytest", "-p", "pytest_kvm.plugin", "-p", "no:cacheprovider"]
    done = subprocess.run(words, cwd=pytester.path, env=alone, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout
    assert "pytest-kvm: " not in done.stdout


def test_help_lists_options_and_ini(pytester: pytest.Pytester) -> None:
    """--help shows every option with its ini twin, --markers the marker, --fixtures the fixtures."""
    result = pytester.runpytest(*ARGUMENTS, "--help")
    result.stdout.fnmatch_lines(["*--kvm-image=IMAGE*", "*kvm_images (linelist)*"])
    pytester.runpytest(*ARGUMENTS, "--markers").stdout.fnmatch_lines(["@pytest.mark.kvm(*fields*):*"])
    pytester.runpytest(*ARGUMENTS, "--fixtures").stdout.fnmatch_lines(["guest*"])
