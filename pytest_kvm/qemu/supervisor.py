"""Runs one QEMU and outlives nothing: started as a program of its own, with the standard library alone.

``python -I -S supervisor.py CONTROL_FD LOCK_FD PARENT_PID RUN_DIRECTORY QEMU ARGS...``

It ends QEMU and removes the run directory as soon as the test process is gone, however that went: it polls a
socket from it (closed when it ends, unless a forked child still holds the other end) and a pidfd of it (which
no child holds). QEMU gets a parent-death signal on this process, for the case that this one is killed. The
lock on the run directory is held here; a directory whose lock is free has no owner and may be swept.

The test process says ``T`` (terminate), ``K`` (kill) or closes the socket (be done); it is told ``pid N``
and ``exit STATUS``, STATUS as :func:`os.waitstatus_to_exitcode` gives it.
"""

import ctypes
import os
import select
import sys

# The signal module would cost as much as all the rest (it needs enum); libc serves as well.
_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_SIG_DFL, _SIG_IGN = None, ctypes.c_void_p(1)
_SIGHUP, _SIGINT, _SIGKILL, _SIGTERM = 1, 2, 9, 15
_IGNORED = (_SIGHUP, _SIGINT, _SIGTERM)


def _start(argv: list[str], log: str) -> int:
    """Start QEMU and return its process id."""
    supervisor = os.getpid()
    started, starting = os.pipe()
    pid = os.fork()
    if pid:
        # Ends when QEMU's program has taken over: until then it would ignore a SIGTERM, as this one does.
        os.close(starting)
        os.read(started, 1)
        return pid
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL)
        if os.getppid() != supervisor:
            os._exit(127)
        for number in _IGNORED:
            _libc.signal(number, _SIG_DFL)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.execv(argv[0], argv)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _close_all_but(*kept: int) -> None:
    """Close QEMU's ends of its sockets here, so that the test process sees them end with QEMU."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                pass  # the descriptor of the listing itself


def _remove(directory: str) -> None:
    """Remove a directory and all in it, as far as that goes."""
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            _remove(entry.path)
        else:
            try:
                os.unlink(entry.path)
            except OSError:
                pass
    try:
        os.rmdir(directory)
    except OSError:
        pass


def _watch(control: int, parent: int, qemu: int) -> None:
    """Serve the test process until it is gone or done; QEMU has ended when this returns."""
    child = os.pidfd_open(qemu)
    poll = select.poll()
    for descriptor in (control, parent, child):
        poll.register(descriptor, select.POLLIN)
    running = True
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if child in ready:
            poll.unregister(child)
            _, status = os.waitpid(qemu, 0)
            running = False
            try:
                os.write(control, b"exit %d\n" % os.waitstatus_to_exitcode(status))
            except OSError:
                return
        request = b""
        if control in ready:
            try:
                request = os.read(control, 1)
            except OSError:
                pass
        if parent in ready or (control in ready and not request):
            break
        if running and request:
            os.kill(qemu, _SIGTERM if request == b"T" else _SIGKILL)
    if running:
        os.kill(qemu, _SIGKILL)
        os.waitpid(qemu, 0)


def main() -> None:
    """Run QEMU until it ends and its test process is done with it."""
    control, lock, parent = (int(word) for word in sys.argv[1:4])
    directory, *argv = sys.argv[4:]
    for number in _IGNORED:
        _libc.signal(number, _SIG_IGN)
    os.set_inheritable(control, False)
    os.set_inheritable(lock, False)
    try:
        watched = os.pidfd_open(parent)
        if os.getppid() != parent:
            return
        qemu = _start(argv, directory + "/qemu.log")
        _close_all_but(control, lock, watched)
        try:
            os.write(control, b"pid %d\n" % qemu)
        except OSError:
            pass  # nobody wants it any more, as the watch will see
        _watch(control, watched, qemu)
    finally:
        _remove(directory)


if __name__ == "__main__":
    main()
