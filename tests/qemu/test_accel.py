"""Choosing the accelerator: every obstacle with a shell script as QEMU, the probe with the real one."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_kvm.errors import ConfigError, HostError
from pytest_kvm.qemu import accel
from pytest_kvm.qemu.accel import Verdict, choose, probe_argv, timeout_scale
from pytest_kvm.qemu.binary import Capabilities, Qemu, capabilities, find, running

PROBE = Path(__file__).parents[2] / "assets" / "probe"
PAYLOAD = PROBE / "probe.bin"


class Fake:
    """A shell script as QEMU on an x86_64 host with a ``/dev/kvm``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.calls = directory / "calls"
        self.does("exit 85")

    def does(self, probe: str, *, accelerators: str = "tcg kvm", devices: str = "isa-debug-exit") -> None:
        """Say what it does when it is to run a guest."""
        path = self.directory / "fake"
        path.write_text(f"""#!/bin/sh
echo "$*" >> {self.calls}
case "$*" in
  "-accel help") printf '%s\\n' {accelerators} ;;
  "-device help") printf 'name "%s"\\n' {devices} ;;
  *help) ;;
  *) {probe} ;;
esac
""")
        path.chmod(0o755)

    def qemu(self, arch: str = "x86_64") -> Qemu:
        return Qemu(path=self.directory / "fake", version=(9, 1, 0), arch=arch)

    def choose(self, wanted: str | None = "auto", *, cpu: str = "host", arch: str = "x86_64") -> Verdict:
        cache = self.directory / "cache"
        return choose(wanted, qemu=self.qemu(arch), cpu=cpu, cache=cache, payload=PAYLOAD)

    @property
    def starts(self) -> int:
        """How often it was started to run a guest."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return sum(not line.endswith("help") for line in lines)


def _lists(machines: frozenset[str] = frozenset()) -> Capabilities:
    empty: frozenset[str] = frozenset()
    return Capabilities(program="", machines=machines, cpus=empty, devices=empty, accelerators=empty)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    (tmp_path / "kvm").touch()
    (tmp_path / "boot_id").write_text("first\n")
    monkeypatch.setattr(accel, "KVM", tmp_path / "kvm")
    monkeypatch.setattr(accel, "BOOT_ID", tmp_path / "boot_id")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return Fake(tmp_path)


@pytest.fixture
def real() -> Qemu:
    try:
        return find()
    except HostError as err:
        pytest.skip(str(err).splitlines()[0])


def test_tcg_needs_no_probe(fake: Fake) -> None:
    """Who asks for TCG gets it at once."""
    assert str(fake.choose("tcg")) == "tcg (asked for)"
    assert not fake.calls.exists()


def test_unknown_accelerator(fake: Fake) -> None:
    """A misspelt accelerator is refused with the right one."""
    with pytest.raises(ConfigError, match=r'accelerator "kwm": unknown; did you mean "kvm"\?'):
        fake.choose("kwm")


@pytest.mark.parametrize("wanted", [None, "auto", "kvm"])
def test_probe_passes(wanted: str | None, fake: Fake) -> None:
    """KVM that ran the probe is used."""
    assert str(fake.choose(wanted)) == "kvm (verified)"
    assert fake.starts == 1


def test_other_architecture(fake: Fake) -> None:
    """KVM runs guests of the host's own architecture, and on x86_64 those of i386."""
    assert str(fake.choose(arch="aarch64")) == "tcg (KVM on x86_64 runs no aarch64 guest)"
    assert fake.starts == 0
    assert fake.choose(arch="i386").accel == "kvm"


def test_built_without_kvm(fake: Fake) -> None:
    """A QEMU without KVM is told from a host without it."""
    fake.does("exit 85", accelerators="tcg")
    assert str(fake.choose()) == "tcg (QEMU 9.1.0 was built without KVM)"


def test_no_device(fake: Fake) -> None:
    """Where /dev/kvm is missing, the reason says what to load."""
    accel.KVM.unlink()
    verdict = fake.choose()
    assert verdict.accel == "tcg"
    assert verdict.reason.startswith(f"no {accel.KVM}: load kvm_intel or kvm_amd")


def test_no_access(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /dev/kvm may not be opened, the reason names the group."""

    def refuse(*_args: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("os.open", refuse)
        reason = accel._obstacle(fake.qemu(), _lists())
    assert "usermod -aG kvm $USER" in str(reason)


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        (
            "echo 'q: warning: old' >&2; echo 'q: error: failed to set MSR 0x10a' >&2; kill -6 $$",
            "KVM opens but QEMU ended the probe with signal 6: error: failed to set MSR 0x10a",
        ),
        ("exit 0", "KVM opens but QEMU ended the probe with exit code 0: it printed nothing"),
        ("exit 87", "KVM opens but computed the probe wrongly"),
        ("kill -9 $$", "KVM opens but QEMU ended the probe with signal 9: it printed nothing"),
    ],
    ids=["abort", "reset", "wrong-sum", "killed"],
)
def test_probe_fails(does: str, reason: str, fake: Fake) -> None:
    """Each way to fail has its own reason, with QEMU's own words."""
    fake.does(does)
    assert fake.choose() == Verdict(accel="tcg", reason=reason)


def test_wanted_kvm_that_fails(fake: Fake) -> None:
    """Who insists on KVM learns why it does not work, and what does."""
    fake.does("exit 87")
    with pytest.raises(HostError) as caught:
        fake.choose("kvm")
    first, second = str(caught.value).splitlines()
    assert first == 'accelerator "kvm": KVM opens but computed the probe wrongly'
    assert '"tcg"' in second


def test_budget_is_cpu_time(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that computes for too long is ended."""
    monkeypatch.setattr(accel, "BUDGET", 1)
    fake.does("while :; do :; done")
    assert "ran the probe for 1 s without finishing it" in fake.choose().reason


def test_waiting_does_not_count(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that waits for the processor may take longer than its budget."""
    monkeypatch.setattr(accel, "BUDGET", 1)
    fake.does("sleep 1.5; exit 85")
    assert fake.choose().accel == "kvm"


def test_patience(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that hangs idle is ended too."""
    monkeypatch.setattr(accel, "PATIENCE", 0.3)
    fake.does("sleep 60")
    started = time.monotonic()
    assert "did not finish the probe in 0.3 s" in fake.choose().reason
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("status", [85, 87])
def test_answer_is_kept(status: int, fake: Fake) -> None:
    """The second call starts no QEMU at all."""
    fake.does(f"exit {status}")
    first = fake.choose()
    before = fake.calls.read_text()
    assert fake.choose() == first
    assert fake.calls.read_text() == before
    assert fake.starts == 1


def test_answer_is_for_one_cpu_model_and_boot(fake: Fake, tmp_path: Path) -> None:
    """Another CPU model, another boot or another QEMU is probed anew; an old boot's answers go."""
    fake.choose(cpu="host")
    fake.choose(cpu="qemu64")
    assert fake.starts == 2
    (tmp_path / "boot_id").write_text("second\n")
    fake.choose(cpu="host")
    assert fake.starts == 3
    assert len(json.loads((tmp_path / "cache/accel.json").read_text())["answers"]) == 1
    fake.does("exit 85; true")
    fake.choose(cpu="host")
    assert fake.starts == 4


def test_no_is_not_believed_for_long(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """What kept KVM from working may pass, so a no is asked again after a while, a yes is not."""
    monkeypatch.setattr(accel, "KEEP_NO", -1.0)
    fake.does(f"test -e {fake.directory}/works && exit 85; exit 1")
    assert fake.choose().accel == "tcg"
    (fake.directory / "works").touch()
    assert fake.choose().accel == "kvm"
    assert fake.choose().accel == "kvm"
    assert fake.starts == 2


@pytest.mark.parametrize("damage", ["", "{", '{"boot": "first", "answers": []}', '{"boot": "first"}'])
def test_damaged_cache(damage: str, fake: Fake, tmp_path: Path) -> None:
    """A damaged cache is asked nothing and written anew."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/accel.json").write_text(damage)
    assert fake.choose().accel == "kvm"
    assert fake.choose().accel == "kvm"
    assert fake.starts == 1


def test_damaged_answer(fake: Fake, tmp_path: Path) -> None:
    """A single damaged answer is asked for again."""
    fake.choose()
    file = tmp_path / "cache/accel.json"
    data = json.loads(file.read_text())
    data["answers"] = {key: {"accel": "kvm"} for key in data["answers"]}
    file.write_text(json.dumps(data))
    assert str(fake.choose()) == "kvm (verified)"
    assert fake.starts == 2


def test_probed_once_at_a_time(fake: Fake) -> None:
    """Of several that ask together one probes, and all get its answer."""
    fake.does("sleep 0.3; exit 85")
    with ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(lambda _: fake.choose(), range(4)))
    assert {str(verdict) for verdict in verdicts} == {"kvm (verified)"}
    assert fake.starts == 1


def test_stuck_lock(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is never released is an error, not a hang."""
    import filelock

    monkeypatch.setattr(accel, "LOCK_WITHIN", 0.1)
    (tmp_path / "cache").mkdir()
    with (
        filelock.FileLock(tmp_path / "cache/accel.json.lock"),
        pytest.raises(HostError, match=r"has held it for 0\.1 s"),
    ):
        fake.choose()


def test_no_probe_for_other_architectures(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no payload, QEMU must start with KVM and quit when told."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    fake.does('read -r line; test "$line" = quit')
    assert str(fake.choose(arch="aarch64")) == "kvm (not probed: no probe for aarch64)"
    fake.does("echo 'q: no irqchip' >&2; exit 1")
    assert fake.choose(arch="aarch64").reason == "KVM opens but QEMU did not start with it: no irqchip"


def test_no_debug_exit(fake: Fake) -> None:
    """A QEMU without the device that ends the probe is only started."""
    fake.does("exit 0", devices="nvme")
    assert str(fake.choose()) == "kvm (not probed: QEMU 9.1.0 lacks isa-debug-exit)"


def test_machine_without_pc(fake: Fake) -> None:
    """The probe runs on q35 where the older machine has been dropped."""
    old = _lists(machines=frozenset({"pc", "q35"}))
    new = _lists(machines=frozenset({"q35"}))
    for known, machine in [(old, "pc"), (new, "q35"), (_lists(), "pc")]:
        argv = probe_argv(fake.qemu(), known, accel="kvm", cpu="host", payload=PAYLOAD)
        assert argv[argv.index("-machine") + 1] == machine


def test_timeout_scale() -> None:
    """Only TCG is given more time."""
    assert timeout_scale("kvm") == 1.0
    assert timeout_scale("tcg") > 1.0


def test_payload_is_what_its_source_says(tmp_path: Path) -> None:
    """The checked-in bytes are a boot sector, and those that the assembler makes of the source."""
    data = PAYLOAD.read_bytes()
    assert len(data) == 512
    assert data.endswith(b"\x55\xaa")
    if missing := [tool for tool in ("as", "ld", "objcopy") if shutil.which(tool) is None]:
        pytest.skip(f"no {' and no '.join(missing)} to assemble it with")
    if platform.machine() != "x86_64":
        pytest.skip(f"the assembler of {platform.machine()} makes no x86 code")
    (recipe,) = (line for line in (PROBE / "probe.S").read_text().splitlines() if line.startswith("# as "))
    shutil.copy(PROBE / "probe.S", tmp_path)
    for command in recipe.removeprefix("# ").split(" && "):
        subprocess.run(command.split(), cwd=tmp_path, check=True, timeout=30)
    assert (tmp_path / "probe.bin").read_bytes() == data


@pytest.mark.parametrize("cpu", ["qemu64", "486"], ids=["64-bit", "32-bit-only"])
@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_payload_under_tcg(cpu: str, machine: str, real: Qemu, tmp_path: Path) -> None:
    """The payload passes under TCG, with long mode and without, on both machines."""
    known = capabilities(real, cache=tmp_path)
    argv = probe_argv(real, known, accel="tcg", cpu=cpu, payload=PAYLOAD)
    argv[argv.index("-machine") + 1] = machine
    with tempfile.TemporaryFile() as output, running(argv, output=output) as process:
        assert process.wait(60) == accel.PASSED


def test_real_verdict_is_what_qemu_shows(real: Qemu, tmp_path: Path) -> None:
    """The verdict on this host agrees with a QEMU started by hand with the same limit."""
    known = capabilities(real, cache=tmp_path)
    verdict = choose("auto", qemu=real, cpu="qemu64", cache=tmp_path, payload=PAYLOAD)
    argv = probe_argv(real, known, accel="kvm", cpu="qemu64", payload=PAYLOAD)
    by_hand = subprocess.run(
        ["sh", "-c", 'ulimit -t 3; exec "$@"', "sh", *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (verdict.accel == "kvm") == (by_hand.returncode == accel.PASSED), verdict.reason
    started = time.monotonic()
    assert choose("auto", qemu=real, cpu="qemu64", cache=tmp_path, payload=PAYLOAD) == verdict
    assert time.monotonic() - started < 1
    if verdict.accel == "tcg":
        with pytest.raises(HostError):
            choose("kvm", qemu=real, cpu="qemu64", cache=tmp_path, payload=PAYLOAD)
