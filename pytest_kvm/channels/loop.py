"""One thread with an event loop: where all of a guest's sockets are served.

The face of every channel is synchronous and may be used from any thread, also from inside a test that has
a running event loop of its own; the work happens here.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine
    from typing import Any

_T = TypeVar("_T")
_CHUNK = 1 << 16
_LEAVING_TIMEOUT = 2.0


class LoopThread:
    """An asyncio event loop on a thread of its own; :meth:`close` ends both."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, _T], timeout: float | None = None) -> _T:
        """Run a coroutine on the loop and wait for what it returns.

        :param timeout: seconds; the coroutine is cancelled when they are over.
        :raise TimeoutError: when it took longer.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def post(self, function: Callable[..., object], *args: object) -> None:
        """Have the loop call a function, without waiting."""
        self._loop.call_soon_threadsafe(function, *args)

    def drain(self, sock: socket.socket, received: Callable[[bytes], None]) -> None:
        """Read a socket from now on; ``received`` gets each piece, and ``b""`` once when it ends."""
        sock.setblocking(False)

        def read() -> None:
            try:
                data = sock.recv(_CHUNK)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if not data:
                self._loop.remove_reader(sock)
            received(data)

        self.post(self._loop.add_reader, sock, read)

    def send(self, sock: socket.socket, data: bytes, timeout: float | None = None) -> None:
        """Write everything to a socket.

        :raise TimeoutError: when the other side does not take it in time.
        :raise OSError: when there is no other side.
        """
        self.call(self._loop.sock_sendall(sock, data), timeout)

    def release(self, *sockets: socket.socket) -> None:
        """Stop reading these sockets and close them."""

        async def forget() -> None:
            for sock in sockets:
                self._loop.remove_reader(sock)
                sock.close()

        self.call(forget())

    def close(self) -> None:
        """End the loop and its thread; may be called twice."""
        if self._loop.is_closed():
            return
        self.call(_cancel_all())
        self.post(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_all() -> None:
    # Being cancelled again would interrupt what a task does to clean up.
    if leaving := [task for task in asyncio.all_tasks() if task.cancelling()]:
        await asyncio.wait(leaving, timeout=_LEAVING_TIMEOUT)
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
