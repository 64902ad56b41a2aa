"""The guests of one scope: made by a factory, told apart by name, and all gone at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pytest_kvm import Guest, GuestConfig

    Prepare = Callable[[Guest], object] | Sequence[str] | None

# Guests of the running test and of wider scopes, for the report.
GUESTS = pytest.StashKey[list["Guests"]]()


class Guests:
    """Makes guests from a base config; calling it is what ``guest_factory`` offers."""

    def __init__(
        self, request: pytest.FixtureRequest, base: GuestConfig, artifacts: Path, prepare: Prepare
    ) -> None:
        from pytest_kvm.plugin.home import home

        self._base, self._artifacts, self._prepare = base, artifacts, prepare
        self._home = home(request.config)
        self.made: list[Guest] = []
        request.node.stash.setdefault(GUESTS, []).append(self)

    def __call__(self, *, start: bool = True, **config: Any) -> Guest:
        """Make a guest.

        :param start: start it and wait until it is ready; otherwise :meth:`Guest.start` does.
        :param config: fields of :class:`~pytest_kvm.GuestConfig`; they go before everything else.
        :raise ConfigError: for an unknown field, a wrong value, or a name that is taken.
        """
        from pytest_kvm import ConfigError, Guest

        chosen = self._base.with_(**config)
        chosen = chosen.with_(name=chosen.name or f"guest{len(self.made)}")
        if any(guest.name == chosen.name for guest in self.made):
            raise ConfigError(f'guest_factory: name "{chosen.name}" is taken in this test; give each its own')
        guest = Guest(chosen, artifacts=self._artifacts, **self._home.guest_arguments)
        self.made.append(guest)
        if start:
            guest.start()
            self._home.booted(guest)
            self._apply_prepare(guest)
        return guest

    def close(self) -> None:
        """End every guest, the last one first, also when ending one fails."""
        while self.made:
            guest = self.made.pop()
            try:
                guest.kill()
            except BaseException:
                self.close()
                raise

    def _apply_prepare(self, guest: Guest) -> None:
        if self._prepare is None:
            return
        if callable(self._prepare):
            self._prepare(guest)
        else:
            for command in self._prepare:
                guest.run(command, timeout=600)
