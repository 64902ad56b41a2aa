"""Which computer the guest is: its chipset, and the machine's own properties."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_kvm.config import options
from pytest_kvm.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """``-machine``: ``Machine(type="pc", options={"usb": "off"})``.

    :ivar type: a name from ``qemu-system-x86_64 -machine help``; ``None`` is QEMU's default.
    :ivar options: machine properties in QEMU's words.
    """

    type: str | None = None
    options: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = {key: options.switch(value) for key, value in self.options.items()}
        if "accel" in given:
            raise ConfigError(f"machine: accel={given['accel']} belongs to accel= (or --kvm-accel)")
        object.__setattr__(self, "options", given)

    @classmethod
    def parse(cls, text: str) -> Machine:
        """Read QEMU's form, for example ``pc,usb=off``.

        :raise ConfigError: for an option without a name, or given twice.
        """
        given = options.parse(text, implied="type")
        kind = options.single(given, "type", f'machine "{text}"')
        if not kind:
            raise ConfigError(f'machine "{text}": names no machine; write for example q35,hpet=off')
        values = {key: options.single(dict(given), key, f'machine "{text}"') or "" for key in given}
        return cls(type=kind, options=values)

    def __str__(self) -> str:
        return options.join(self.type, self.options)
