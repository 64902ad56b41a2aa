"""Which processor the guest sees: a model and its feature flags."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_kvm.config import options
from pytest_kvm.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Cpu:
    """``-cpu``: ``Cpu(model="EPYC", features={"avx2": False})`` is ``-cpu EPYC,avx2=off``.

    :ivar model: a name from ``qemu-system-x86_64 -cpu help``.
    :ivar features: flag to ``True``, ``False`` or, for a property, its value.
    """

    model: str
    features: dict[str, bool | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.model or "=" in self.model:
            raise ConfigError(f'cpu: "{self.model}" is not a model; write for example EPYC,+avx2')
        features = {name: _feature(value) for name, value in self.features.items()}
        object.__setattr__(self, "features", features)

    @classmethod
    def parse(cls, text: str) -> Cpu:
        """Read QEMU's form, for example ``SandyBridge,+erms,-avx,hv-time=on``.

        :raise ConfigError: for an empty model or a flag without a name.
        """
        model, *flags = options.split(text) or [""]
        features: dict[str, bool | str] = {}
        for flag in flags:
            name, equals, value = flag.partition("=")
            if not equals and name[:1] in {"+", "-"}:
                name, value = name[1:], "on" if name[0] == "+" else "off"
            if not name:
                raise ConfigError(f'cpu "{text}": a flag without a name at "{flag}"; write +avx2 or avx2=on')
            features[name] = _feature(value or "on")
        return cls(model=model, features=features)

    def __str__(self) -> str:
        return options.join(self.model, self.features)


def _feature(value: bool | str) -> bool | str:
    return {"on": True, "off": False}.get(value, value) if isinstance(value, str) else value
