"""What ``import pytest_kvm`` offers, and that it costs next to nothing."""

from __future__ import annotations

import importlib.resources
import json
import subprocess
import sys

import pytest

import pytest_kvm
from pytest_kvm import errors

CONTRACT = {
    "Guest",
    "GuestConfig",
    "Smp",
    "Cpu",
    "Drive",
    "NetDev",
    "Console",
    "Qmp",
    "Result",
    "Image",
    "KvmError",
    "ConfigError",
    "HostError",
    "ImageError",
    "LaunchError",
    "GuestDied",
    "BootTimeout",
    "ConsoleTimeout",
    "CommandTimeout",
    "CommandError",
    "QmpError",
}
HEAVY = {"paramiko", "qemu.qmp", "pexpect", "cryptography", "pycdlib", "filelock", "asyncio", "PIL"}


@pytest.mark.parametrize("name", pytest_kvm.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """Each name of ``__all__`` resolves to a class with a docstring."""
    item = getattr(pytest_kvm, name)
    assert isinstance(item, type)
    assert item.__name__ == name
    assert item.__doc__


def test_the_contract_is_public() -> None:
    """What users' tests rely on is in ``__all__``, once."""
    assert set(pytest_kvm.__all__) >= CONTRACT
    assert len(pytest_kvm.__all__) == len(set(pytest_kvm.__all__))
    assert dir(pytest_kvm) == sorted(pytest_kvm.__all__)


def test_all_errors_are_public() -> None:
    """Whatever can be raised can be caught by a public name."""
    raised = {
        name
        for name, item in vars(errors).items()
        if isinstance(item, type) and issubclass(item, errors.KvmError)
    }
    assert raised <= set(pytest_kvm.__all__)


def test_a_name_that_does_not_exist() -> None:
    """It is an AttributeError, as for any module."""
    with pytest.raises(AttributeError, match="module 'pytest_kvm' has no attribute 'Gest'"):
        pytest_kvm.Gest  # noqa: B018


@pytest.mark.parametrize(
    "module", ["pytest_kvm", "pytest_kvm.config", "pytest_kvm.errors", "pytest_kvm.plugin"]
)
def test_importing_is_cheap(module: str) -> None:
    """A run without guests loads none of the heavy libraries."""
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & HEAVY
    assert not [name for name in loaded if name.startswith("pytest_kvm.channels.")]


def test_config_does_not_load_pytest() -> None:
    """The configuration and the errors can be used with no pytest in sight."""
    code = "import sys, pytest_kvm.config, pytest_kvm.errors; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_package_says_that_it_is_typed() -> None:
    """Type checkers of users' suites read our annotations."""
    assert (importlib.resources.files("pytest_kvm") / "py.typed").is_file()
