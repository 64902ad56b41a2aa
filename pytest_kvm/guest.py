"""A guest's life: started, talked to, and gone without a trace. Works with no pytest loaded."""

from __future__ import annotations

import enum
import shutil
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvm.channels import usernet
from pytest_kvm.channels.remote import Remote
from pytest_kvm.config import GuestConfig
from pytest_kvm.config.options import size_in_bytes
from pytest_kvm.errors import (
    BootTimeout,
    CommandError,
    CommandTimeout,
    GuestDied,
    KvmError,
    describe_exit,
    with_console,
)
from pytest_kvm.images import cache as cache_
from pytest_kvm.images import catalog
from pytest_kvm.images.keys import keys
from pytest_kvm.images.prepare import with_image
from pytest_kvm.launch import Launch
from pytest_kvm.qemu import accel, binary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import paramiko

    from pytest_kvm.channels.base import CommandChannel
    from pytest_kvm.channels.console import Console
    from pytest_kvm.channels.qmp import Qmp
    from pytest_kvm.channels.ssh import SshLogin
    from pytest_kvm.images.image import Image, Say
    from pytest_kvm.result import Result

_DEFAULT_CPU = "qemu64"
_CONSOLE_TIMEOUT = 30  # seconds, as pexpect's own


class State(enum.Enum):
    """Where in its life a guest is."""

    NEW = "new"
    BOOTING = "booting"
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"


class Guest(Remote):
    """A throwaway virtual machine.

    A context manager: ``with Guest(GuestConfig(smp="2")) as guest: guest.run("nproc")``. The guest is started
    on the way in and gone, with everything it had on the host, on the way out.

    :ivar config: what was asked for; after :meth:`start`, completed with what the image says.
    :ivar accel: ``"kvm"`` or ``"tcg"``; ``accel_reason`` says why.
    :ivar boot_seconds: from QEMU's start until the guest was ready.
    """

    def __init__(
        self,
        config: GuestConfig | None = None,
        *,
        artifacts: Path | None = None,
        images: Mapping[str, Image] | None = None,
        say: Say = lambda _: None,
        keep: str = "never",
    ) -> None:
        """Describe a guest; nothing happens yet.

        :param artifacts: directory for screenshots and kept logs; ``./kvm-artifacts`` when not given.
        :param images: further known images by name.
        :param say: takes lines of progress, when an image has to be built first.
        :param keep: whether logs are saved among the artifacts at the end: ``"never"``, ``"failed"`` (when
            :attr:`failed` is set, as :meth:`start` does when it fails), ``"always"``.
        """
        self.config = config or GuestConfig()
        self._state = State.NEW
        self.accel = self.accel_reason = ""
        self.boot_seconds: float | None = None
        self._artifacts = artifacts or Path("kvm-artifacts")
        self._declared, self._say, self._keep = images or {}, say, keep
        self.failed = False
        self._image: Image | None = None
        self._launch: Launch | None = None
        self._commands: CommandChannel | None = None
        self._ssh: paramiko.SSHClient | None = None
        self._cache = cache_.directory()
        self._scale = 1.0

    def __enter__(self) -> Guest:
        if self._state is State.NEW:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def __repr__(self) -> str:
        return f"<Guest {self.name} {self._state.value}>"

    @property
    def name(self) -> str:
        """The guest's name."""
        return self.config.name or "guest"

    @property
    def state(self) -> State:
        """Where in its life it is."""
        return self._state

    @property
    def image(self) -> Image:
        """What it boots; a built-in image is built the first time."""
        if self._image is None:
            self._image = catalog.resolve(self.config.image, self._cache, self._say, self._declared)
        return self._image

    @property
    def arch(self) -> str:
        """The guest's architecture in QEMU's words."""
        return self.config.arch or self.image.arch

    @property
    def argv(self) -> list[str]:
        """QEMU's command line."""
        return self._live().argv

    @property
    def pid(self) -> int | None:
        """QEMU's process id."""
        return self._live().process.wait_started()

    @property
    def artifacts(self) -> Path:
        """The directory for what outlives the guest, made when it is first asked for."""
        self._artifacts.mkdir(parents=True, exist_ok=True)
        return self._artifacts

    def start(self) -> None:
        """Start QEMU and wait until a command can be run in the guest.

        :raise ConfigError: when QEMU does not know what it is asked for.
        :raise HostError: when this host lacks something.
        :raise LaunchError: when QEMU ends at once.
        :raise BootTimeout: when the guest does not become ready; nothing is left of it then.
        """
        if self._state is not State.NEW:
            raise KvmError(f'guest "{self.name}" was started before; make a new one')
        config = with_image(self.config, self.image)
        qemu = binary.find(config.qemu, arch=self.arch)
        cpu = str(config.cpu) if config.cpu else _DEFAULT_CPU
        payload = cache_.asset("probe/probe.bin")
        verdict = accel.choose(config.accel, qemu=qemu, cpu=cpu, cache=self._cache, payload=payload)
        self.accel, self.accel_reason = verdict.accel, verdict.reason
        self._scale = config.timeout_scale or accel.timeout_scale(self.accel)
        self.config, self._state = config, State.BOOTING
        began = time.monotonic()
        try:
            self._launch = Launch(config, self.image, qemu, self.accel, keys(self._cache), self._cache)
            self._launch.console.timeout = _CONSOLE_TIMEOUT * self._scale
            _ = self._launch.qmp
            self._await_ready()
        except BaseException:
            self.failed = True
            self.kill()
            raise
        self.boot_seconds = time.monotonic() - began
        self._state = State.RUNNING

    @property
    def console(self) -> Console:
        """The first serial port, a pexpect object."""
        return self._live().console

    @property
    def consoles(self) -> dict[str, Console]:
        """The further serial ports, by id."""
        return self._live().consoles

    @property
    def qmp(self) -> Qmp:
        """QEMU's monitor."""
        return self._live().qmp

    @property
    def ssh(self) -> paramiko.SSHClient:
        """A connected SSH client."""
        from pytest_kvm.channels.ssh import connect

        if self._ssh is None:
            self._ssh = connect(self._ssh_login(), 60 * self._scale)
        return self._ssh

    @property
    def ssh_config(self) -> Path:
        """A configuration file for ``ssh -F``, rsync, Ansible, testinfra; its host is the guest's name."""
        login, directory = self._ssh_login(), self._live().directory
        known_hosts, path = directory / "known_hosts", directory / "ssh_config"
        known_hosts.write_text(login.known_hosts_text())
        path.write_text(login.config_text(self.name, known_hosts))
        return path

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        timeout: float = 60,
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run a command in the guest, as root, and wait for its end.

        :param command: text for the guest's ``sh``, or a list of words that reach the program as they are.
        :param check: raise when it fails.
        :param timeout: seconds; the command is killed when they are over.
        :param input: its standard input; empty when not given.
        :param env: variables added to its environment.
        :raise CommandError: when it returns something other than 0.
        :raise CommandTimeout: when it was killed.
        :raise GuestDied: when the guest ended meanwhile.
        """
        if self._commands is None:
            raise KvmError(f'image "{self.image.name}" has no way to run commands; use guest.console')
        data = input.encode() if isinstance(input, str) else input or b""
        with self._watched():
            result = self._commands.run(command, timeout=timeout, input=data, env=dict(env or {}))
        if check and result.returncode:
            raise CommandError(result)
        return result

    def hmp(self, line: str) -> str:
        """Execute a line of QEMU's human monitor and return what it prints."""
        return self.qmp.hmp(line)

    def forward(self, port: int) -> tuple[str, int]:
        """Make a TCP port of the guest reachable from here; the same port again gives the same answer.

        :return: host and port to connect to, on the loopback interface.
        :raise KvmError: when no card of the guest is on a user network.
        """
        user = [netdev.id for netdev in self.config.netdevs or () if netdev.backend == "user"]
        if not user:
            raise KvmError('forward: no network card with backend "user"; add netdevs=["user"]')
        return usernet.forward(self.hmp, str(user[0]), port)

    def screenshot(self) -> Path:
        """Save what the guest's screen shows as PNG among the artifacts and return its path.

        :raise KvmError: when the guest has no video card.
        """
        taken = len(list(self.artifacts.glob(f"{self.name}-screenshot-*.png")))
        path = self.artifacts.absolute() / f"{self.name}-screenshot-{taken + 1}.png"
        try:
            self.qmp.execute("screendump", filename=str(path), format="png")
        except KvmError as error:
            raise KvmError(f'screenshot: {error}; a video card is devices=["VGA"]') from error
        return path

    def send_keys(self, *combinations: str) -> None:
        """Press keys, one combination after the other: ``"ctrl-alt-f2"``, ``"ret"`` (QEMU's key names)."""
        for combination in combinations:
            keys_ = [{"type": "qcode", "data": key} for key in combination.split("-")]
            self.qmp.execute("send-key", keys=keys_)

    def balloon(self, size: int | str, *, timeout: float = 30) -> None:
        """Leave the guest only so much memory, and wait until it has given back the rest.

        :param size: bytes, or with QEMU's binary suffixes: ``"128M"``.
        :raise CommandTimeout: when the guest does not follow.
        """
        wanted = size_in_bytes(size, "balloon", default_unit="b")
        self.qmp.execute("balloon", value=wanted)
        deadline = time.monotonic() + timeout
        while (actual := self.qmp.execute("query-balloon")["actual"]) != wanted:
            if time.monotonic() > deadline:
                raise CommandTimeout(
                    f"balloon: the guest has {actual} bytes after {timeout:g} s, not {wanted}"
                )
            time.sleep(0.02)

    def pause(self) -> None:
        """Stop the guest's processors."""
        self.qmp.execute("stop")
        self._state = State.PAUSED

    def resume(self) -> None:
        """Let the guest's processors go on."""
        self.qmp.execute("cont")
        self._state = State.RUNNING

    def reset(self) -> None:
        """Press the reset button and wait until the guest is ready again.

        :raise BootTimeout: when it does not become ready.
        """
        self._log_out()
        if self._commands is not None:
            self._commands.restarted()
        self._state = State.BOOTING
        self.qmp.execute("system_reset")
        self._await_ready()
        self._state = State.RUNNING

    def shutdown(self, *, timeout: float | None = None) -> None:
        """Have the guest power itself off and wait until QEMU has ended.

        :param timeout: seconds; 60 under KVM and a multiple of that under TCG when not given.
        :raise CommandTimeout: when it does not.
        """
        seconds = 60 * self._scale if timeout is None else timeout
        if self._commands is None:
            self.qmp.execute("system_powerdown")
        else:
            self.run("(sleep 0.1; poweroff) >/dev/null 2>&1 &")
        if self._live().process.wait(seconds) is None:
            raise CommandTimeout(f'guest "{self.name}" has not powered off within {seconds:g} s')
        self._state = State.ENDED

    def kill(self) -> None:
        """End the guest; nothing of it is left on the host. May be called twice, and before the start."""
        self._log_out()
        if self._commands is not None:
            self._commands.close()
            self._commands = None
        self._state = State.ENDED
        launch, self._launch = self._launch, None
        if launch is not None:
            with closing(launch):
                if self._keep == "always" or (self._keep == "failed" and self.failed):
                    self._save_logs(launch)

    def console_tail(self) -> str:
        """Return the console's last lines, printable; nothing when the guest does not run."""
        return self._launch.console.tail() if self._launch else ""

    def _save_logs(self, launch: Launch) -> None:
        """Copy the consoles' logs, QEMU's own words and its command line among the artifacts."""
        directory = self.artifacts / self.name
        directory.mkdir(exist_ok=True)
        for log in launch.directory.glob("*.log"):
            shutil.copy(log, directory)
        (directory / "argv.txt").write_text("\n".join(launch.argv) + "\n")

    def _live(self) -> Launch:
        if self._launch is None:
            raise KvmError(f'guest "{self.name}" is not running (state: {self._state.value})')
        return self._launch

    def _await_ready(self) -> None:
        timeout = self.config.boot_timeout or self.image.boot_timeout * self._scale
        foreign = self.config.initrd != self.image.initrd and self.image.disk is None
        if self._commands is None and not foreign:
            self._commands = self._live().command_channel(self.image.channels, self._ssh_login)
        if self._commands is None:
            return
        try:
            with self._watched():
                self._commands.wait_ready(timeout)
        except TimeoutError as error:
            slow = "" if self.accel == "kvm" else f" (under TCG: {self.accel_reason})"
            message = f'guest "{self.name}" was not ready within {timeout:g} s{slow}: {error}'
            message += self.image.hint
            raise with_console(BootTimeout(message), self.console.tail()) from error

    def _ssh_login(self) -> SshLogin:
        from pytest_kvm.channels.ssh import SshLogin

        if "ssh" not in self.image.channels:
            raise KvmError(f'image "{self.image.name}" has no SSH server')
        host, port = self.forward(22)
        pair = keys(self._cache)
        host_key = pair.host_public if self.image.provision else None
        return SshLogin(host=host, port=port, user=self.image.user, key=pair.user_private, host_key=host_key)

    def _log_out(self) -> None:
        if self._ssh is not None:
            self._ssh.close()
            self._ssh = None

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Name the reason when a channel ends because the guest did."""
        try:
            yield
        except ConnectionError as error:
            code = self._live().process.wait(1)
            why = "exit" if code is None or code >= 0 else "signal"
            died = GuestDied(f'guest "{self.name}" is gone: QEMU ended, {describe_exit(code)}', why=why)
            raise with_console(died, self.console.tail()) from error
