"""The fixture ladder: dimensions, config, factory, guest. Each rung can be overridden in a conftest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_kvm.plugin.dimensions import hidden_fixture, marker_fields
from pytest_kvm.plugin.guests import Guests
from pytest_kvm.plugin.home import artifacts_base, artifacts_of, mark_artifacts
from pytest_kvm.plugin.options import DIMENSIONS, fields, setting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_kvm import Guest, GuestConfig
    from pytest_kvm.plugin.guests import Prepare


def _option_fixture(dimension: str) -> Any:
    """Make the hidden fixture that holds the command line's (or ini file's) value of a dimension."""

    @pytest.fixture(scope="session", name=hidden_fixture(dimension))
    def option(request: pytest.FixtureRequest) -> Any:
        values = setting(request.config, dimension)
        return getattr(request, "param", values[0] if values else None)

    return option


_image, _arch, _machine, _cpu, _smp, _memory = map(_option_fixture, DIMENSIONS)


@pytest.fixture
def kvm_image(request: pytest.FixtureRequest, _kvm_image_option: Any) -> Any:
    """What this test's guests boot: a path or a known name; ``None`` is ``tiny``."""
    return marker_fields(request.node).get("image", _kvm_image_option)


@pytest.fixture
def kvm_arch(request: pytest.FixtureRequest, _kvm_arch_option: Any) -> Any:
    """The architecture of this test's guests; ``None`` is the image's."""
    return marker_fields(request.node).get("arch", _kvm_arch_option)


@pytest.fixture
def kvm_machine(request: pytest.FixtureRequest, _kvm_machine_option: Any) -> Any:
    """Machine type and properties; ``None`` is the image's, then QEMU's."""
    return marker_fields(request.node).get("machine", _kvm_machine_option)


@pytest.fixture
def kvm_cpu(request: pytest.FixtureRequest, _kvm_cpu_option: Any) -> Any:
    """CPU model and features; ``None`` is the image's, then QEMU's."""
    return marker_fields(request.node).get("cpu", _kvm_cpu_option)


@pytest.fixture
def kvm_smp(request: pytest.FixtureRequest, _kvm_smp_option: Any) -> Any:
    """Processors and their layout; ``None`` is one."""
    return marker_fields(request.node).get("smp", _kvm_smp_option)


@pytest.fixture
def kvm_memory(request: pytest.FixtureRequest, _kvm_memory_option: Any) -> Any:
    """Memory; ``None`` is the image's, then QEMU's."""
    return marker_fields(request.node).get("memory", _kvm_memory_option)


@pytest.fixture
def kvm_drives(request: pytest.FixtureRequest) -> Any:
    """Disks besides the image's own."""
    return marker_fields(request.node).get("drives", ())


@pytest.fixture
def kvm_netdevs(request: pytest.FixtureRequest) -> Any:
    """Network cards; ``None`` is one on a closed user network, ``()`` is none."""
    return marker_fields(request.node).get("netdevs")


@pytest.fixture
def guest_config(
    request: pytest.FixtureRequest,
    kvm_image: Any,
    kvm_arch: Any,
    kvm_machine: Any,
    kvm_cpu: Any,
    kvm_smp: Any,
    kvm_memory: Any,
    kvm_drives: Any,
    kvm_netdevs: Any,
) -> GuestConfig:
    """The :class:`~pytest_kvm.GuestConfig` that this test's guests are made from."""
    from pytest_kvm import GuestConfig

    dimensions = {
        "image": kvm_image,
        "arch": kvm_arch,
        "machine": kvm_machine,
        "cpu": kvm_cpu,
        "smp": kvm_smp,
        "memory": kvm_memory,
        "drives": kvm_drives,
        "netdevs": kvm_netdevs,
    }
    return GuestConfig.of(**{**fields(request.config), **marker_fields(request.node), **dimensions})


@pytest.fixture(scope="session")
def kvm_prepare() -> Prepare:
    """What to do on each booted guest before the test gets it: a function of the guest, or shell commands."""
    return None


@pytest.fixture
def kvm_artifacts(request: pytest.FixtureRequest) -> Path:
    """This test's own directory for what shall outlive it."""
    path = artifacts_of(request.config, request.node.nodeid)
    mark_artifacts(artifacts_base(request.config))
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def guest_factory(
    request: pytest.FixtureRequest, guest_config: GuestConfig, kvm_prepare: Prepare
) -> Iterator[Callable[..., Guest]]:
    """``guest_factory(**config)``: make as many guests as the test needs; all are gone at its end."""
    guests = Guests(request, guest_config, artifacts_of(request.config, request.node.nodeid), kvm_prepare)
    yield guests
    guests.close()


@pytest.fixture
def guest(guest_factory: Callable[..., Guest]) -> Guest:
    """A pristine, ready, throwaway guest for this test alone."""
    return guest_factory()


@pytest.fixture(scope="session")
def session_guest_factory(
    request: pytest.FixtureRequest, kvm_prepare: Prepare
) -> Iterator[Callable[..., Guest]]:
    """``guest_factory`` for wider scopes; it knows the options, and no test's marker or dimensions."""
    from pytest_kvm import GuestConfig

    first = {name: values[0] for name in DIMENSIONS if (values := setting(request.config, name))}
    base = GuestConfig.of(**{**fields(request.config), **first})
    guests = Guests(request, base, artifacts_base(request.config) / "session", kvm_prepare)
    yield guests
    guests.close()
