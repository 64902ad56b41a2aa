"""How many processors the guest has, and how they are arranged."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod

from pytest_kvm.config import options
from pytest_kvm.errors import ConfigError

_PARTS = ("sockets", "dies", "cores", "threads")


@dataclass(frozen=True, kw_only=True, slots=True)
class Smp:
    """``-smp``: sockets x dies x cores x threads. What is ``None`` QEMU fills in.

    :ivar cpus: processors present at start; the product of the layout when not given.
    :ivar maxcpus: processors the machine has room for; those beyond ``cpus`` can be plugged in later.

    :raise ConfigError: when the layout cannot hold the number of processors.
    """

    cpus: int | None = None
    sockets: int | None = None
    dies: int | None = None
    cores: int | None = None
    threads: int | None = None
    maxcpus: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                where = f"smp: {field.name}"
                object.__setattr__(self, field.name, options.number(value, where, least=1))
        self._check_sums()

    @classmethod
    def parse(cls, text: str) -> Smp:
        """Read QEMU's form, for example ``4,sockets=2,cores=2``.

        :raise ConfigError: for unknown options, values that are no numbers, and impossible sums.
        """
        given = options.parse(text, implied="cpus")
        options.refuse_unknown(given, (field.name for field in fields(cls)), f'smp "{text}"')
        values = {key: options.single(dict(given), key, f'smp "{text}"') for key in given}
        return cls(**{key: options.number(value, f"smp: {key}", least=1) for key, value in values.items()})

    @property
    def count(self) -> int:
        """Processors present when the guest starts."""
        return self.cpus or self.maxcpus or self._product()

    def __str__(self) -> str:
        layout = {name: getattr(self, name) for name in (*_PARTS, "maxcpus")}
        return options.join(None if self.cpus is None else str(self.cpus), layout)

    def _product(self) -> int:
        return prod(getattr(self, name) or 1 for name in _PARTS)

    def _check_sums(self) -> None:
        room = self.maxcpus or self.cpus
        if room is None:
            return
        if self.cpus is not None and self.cpus > room:
            raise ConfigError(f"smp: cpus={self.cpus} do not fit into maxcpus={self.maxcpus}")
        given = {name: getattr(self, name) for name in _PARTS if getattr(self, name) is not None}
        product = prod(given.values())
        # QEMU fills in cores and sockets that are missing, never dies or threads.
        open_ended = self.cores is None or self.sockets is None
        if product == room or (open_ended and room % product == 0):
            return
        sum_ = " x ".join(f"{name}={value}" for name, value in given.items())
        name = "cpus" if self.maxcpus is None else "maxcpus"
        raise ConfigError(f"smp: {sum_} makes {product} processors, {name} says {room}; make them agree")
