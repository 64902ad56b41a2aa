"""Choose the accelerator by what it does: KVM only if it has run a guest here, TCG otherwise.

That ``/dev/kvm`` opens and creates a machine proves little: inside some virtual machines a software
KVM emulates each instruction, and a Linux guest never gets through its boot. So :func:`choose` boots
``assets/probe/probe.bin``, a boot sector of some 20 million instructions that then ends QEMU with a
known status. Measured: 15 s under such a KVM, 0.3 s under TCG (most of it QEMU and firmware starting).
The answer is kept in the cache directory.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import resource
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvm.errors import ConfigError, HostError, describe_exit, did_you_mean
from pytest_kvm.qemu.binary import capabilities, host_arch, printed, read_json, running, write_json

if TYPE_CHECKING:
    from pytest_kvm.qemu.binary import Capabilities, Qemu

KVM = Path("/dev/kvm")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

BUDGET = 3
"""Seconds of CPU time for the probe, which needs 0.2 to 0.3 of them: QEMU and firmware starting, then
milliseconds of work. CPU time and not the clock's, so that a busy host does not look like a bad KVM."""

PATIENCE = 12.0
"""Seconds on the clock for the probe: a guest that hangs idle uses no CPU time."""

KEEP_NO = 3600.0
"""Seconds for which "KVM does not work" is believed. The cause may pass (a hypervisor that held the
processor, memory that was short), so it is not believed until the next boot, as a yes is."""

LOCK_WITHIN = 60.0
"""Seconds to wait for another process's probe."""

PASSED, MISCOMPUTED = 85, 87  # isa-debug-exit's (value << 1) | 1, the values as in probe.S


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Which accelerator to use, and why.

    :ivar accel: ``"kvm"`` or ``"tcg"``.
    :ivar reason: a few words that fit into a line: ``"verified"``.
    """

    accel: str
    reason: str

    def __str__(self) -> str:
        return f"{self.accel} ({self.reason})"


def choose(wanted: str | None, *, qemu: Qemu, cpu: str, cache: Path, payload: Path) -> Verdict:
    """Choose the accelerator.

    :param wanted: ``"kvm"``, ``"tcg"``, or ``"auto"`` (``None`` too) for KVM where it works.
    :param cpu: the CPU model that the guests will use, as after ``-cpu``: KVM may fail with one only.
    :param cache: the directory where the answer is kept, by boot, kernel, QEMU, CPU model and payload.
    :param payload: ``probe.bin``.
    :raise ConfigError: ``wanted`` is something else.
    :raise HostError: KVM is wanted and does not work.
    """
    if wanted not in (None, "auto", "kvm", "tcg"):
        raise ConfigError(f'accelerator "{wanted}": unknown; {did_you_mean(wanted, ["auto", "kvm", "tcg"])}')
    if wanted == "tcg":
        return Verdict(accel="tcg", reason="asked for")
    known = capabilities(qemu, cache=cache)
    reason = _obstacle(qemu, known)
    if reason is not None:
        verdict = Verdict(accel="tcg", reason=reason)
    else:
        verdict = _tried(qemu, known, cpu, cache, payload)
    if wanted == "kvm" and verdict.accel != "kvm":
        remedy = '"auto" and "tcg" run guests without KVM, several times slower'
        raise HostError(f'accelerator "kvm": {verdict.reason}\n{remedy}')
    return verdict


def timeout_scale(accel: str) -> float:
    """Tell by how much the default timeouts grow: they are made for KVM.

    A Debian 12 cloud image boots in 48 to 65 s under TCG on two cores; the default for a boot is 60 s.
    Times 5, the slowest of these still has a margin of four.
    """
    return 1.0 if accel == "kvm" else 5.0


def probe_argv(qemu: Qemu, known: Capabilities, *, accel: str, cpu: str, payload: Path) -> list[str]:
    """Render the command line that boots the payload.

    The geometry is there because the firmware refuses to read a virtio disk of less than a cylinder;
    virtio because it, unlike IDE, can be read-only.
    """
    file = {"driver": "file", "filename": str(payload.absolute()), "node-name": "file", "read-only": True}
    disk = {"driver": "raw", "file": "file", "node-name": "disk", "read-only": True}
    machine = "q35" if known.machines and "pc" not in known.machines else "pc"
    return [
        *_bare(qemu, machine=machine, accel=accel),
        *("-monitor", "none", "-cpu", cpu, "-m", "16", "-no-reboot"),
        *("-blockdev", json.dumps(file), "-blockdev", json.dumps(disk)),
        *("-device", "virtio-blk-pci,drive=disk,lcyls=1,lheads=16,lsecs=63"),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=4"),
    ]


def _bare(qemu: Qemu, *, machine: str, accel: str) -> list[str]:
    return [
        *(str(qemu.path), "-nodefaults", "-no-user-config", "-display", "none", "-serial", "none"),
        *("-machine", machine, "-accel", accel),
    ]


def _obstacle(qemu: Qemu, known: Capabilities) -> str | None:
    """Say why KVM need not even be tried, if so."""
    host = host_arch()
    if qemu.arch != host and (qemu.arch, host) != ("i386", "x86_64"):
        return f"KVM on {host} runs no {qemu.arch} guest"
    if known.accelerators and "kvm" not in known.accelerators:
        return f"{qemu} was built without KVM"
    try:
        os.close(os.open(KVM, os.O_RDWR))
    except OSError as err:
        if err.errno in {errno.ENOENT, errno.ENODEV, errno.ENXIO}:
            return f"no {KVM}: load kvm_intel or kvm_amd, or enable virtualization in the firmware"
        if err.errno in {errno.EACCES, errno.EPERM}:
            return f"{KVM} is not accessible: join its group, e.g. usermod -aG kvm $USER, and log in again"
        return f"{KVM} does not open: {err.strerror}"
    return None


def _tried(qemu: Qemu, known: Capabilities, cpu: str, cache: Path, payload: Path) -> Verdict:
    """Answer from the cache, or else try KVM; one process at a time, so that the others find the answer."""
    import filelock

    boot = BOOT_ID.read_text(encoding="ascii").strip()
    digest = hashlib.sha256(payload.read_bytes()).hexdigest()[:16]
    key = " ".join([platform.release(), qemu.identity, cpu, digest, str(BUDGET)])
    file = cache / "accel.json"
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(f"{file}.lock", timeout=LOCK_WITHIN):
            answers = _answers(file, boot)
            verdict = _still_valid(answers.get(key))
            if verdict is None:
                verdict = _try(qemu, known, cpu, payload)
                until = None if verdict.accel == "kvm" else time.time() + KEEP_NO
                answers[key] = {"accel": verdict.accel, "reason": verdict.reason, "until": until}
                write_json(file, {"boot": boot, "answers": answers})
            return verdict
    except filelock.Timeout:
        raise HostError(f"{file}.lock: another process has held it for {LOCK_WITHIN:g} s") from None


def _answers(file: Path, boot: str) -> dict[str, object]:
    """Read the answers that this boot has given; a damaged file counts as none."""
    match read_json(file):
        case {"boot": str(of), "answers": dict(answers)} if of == boot:
            return answers
    return {}


def _still_valid(answer: object) -> Verdict | None:
    match answer:
        case {"accel": "kvm", "reason": str(reason), "until": None}:
            return Verdict(accel="kvm", reason=reason)
        case {"accel": "tcg", "reason": str(reason), "until": float(until)} if time.time() < until:
            return Verdict(accel="tcg", reason=reason)
    return None


def _try(qemu: Qemu, known: Capabilities, cpu: str, payload: Path) -> Verdict:
    if qemu.arch not in {"x86_64", "i386"}:
        unprobed = f"no probe for {qemu.arch}"
    elif known.devices and "isa-debug-exit" not in known.devices:
        unprobed = f"{qemu} lacks isa-debug-exit"
    else:
        problem = _boot(probe_argv(qemu, known, accel="kvm", cpu=cpu, payload=payload))
        return Verdict(accel="tcg", reason=problem) if problem else Verdict(accel="kvm", reason="verified")
    problem = _start_and_quit([*_bare(qemu, machine="none", accel="kvm"), "-monitor", "stdio"])
    if problem:
        return Verdict(accel="tcg", reason=problem)
    return Verdict(accel="kvm", reason=f"not probed: {unprobed}")


def _boot(argv: list[str]) -> str | None:
    """Boot the payload; say what went wrong, if something did."""
    # A directory of its own, for the core that an aborted QEMU may leave.
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile() as output:
        started = time.monotonic()
        with running(argv, output=output, cwd=scratch) as process:
            # The kernel ends QEMU when its budget is used up, even if nobody is left to wait for it.
            with suppress(OSError, ValueError):  # a limit that was lower before does as well
                resource.prlimit(process.pid, resource.RLIMIT_CPU, (BUDGET, BUDGET))
            try:
                code = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                return f"KVM opens but did not finish the probe in {PATIENCE:g} s (a healthy one needs 0.2 s)"
        if code == PASSED:
            return None
        if code == MISCOMPUTED:
            return "KVM opens but computed the probe wrongly"
        if code == -signal.SIGKILL and time.monotonic() - started > BUDGET / 2:  # else someone else's
            return (
                f"KVM opens but ran the probe for {BUDGET} s without finishing it (a healthy one needs 0.2 s)"
            )
        return f"KVM opens but QEMU ended the probe with {describe_exit(code)}: {_words(printed(output))}"


def _start_and_quit(argv: list[str]) -> str | None:
    """Start QEMU with KVM and no guest; say what went wrong, if something did."""
    with tempfile.TemporaryFile() as commands, tempfile.TemporaryFile() as output:
        commands.write(b"quit\n")
        commands.seek(0)
        with running(argv, output=output, stdin=commands) as process:
            try:
                code = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                return f"KVM opens but QEMU did not start with it in {PATIENCE:g} s"
        return None if code == 0 else f"KVM opens but QEMU did not start with it: {_words(printed(output))}"


def _words(output: str) -> str:
    """Quote QEMU's first complaint on one line: after an assertion's failure, the last says less."""
    lines = [line for line in output.splitlines() if line.strip() and " warning: " not in line]
    text = lines[0].partition(": ")[2] or lines[0] if lines else "it printed nothing"
    return "".join(c if c.isprintable() else "?" for c in text.strip())[:200]
