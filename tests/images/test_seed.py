"""The cloud-init seed, read back as a guest would."""

from __future__ import annotations

import io
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pycdlib
import pytest

from pytest_kvm.images import seed
from pytest_kvm.images.cache import asset
from pytest_kvm.images.keys import Keys, keys

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Make keys in a cache of the test's own."""
    return keys(tmp_path_factory.mktemp("cache"))


def read(path: Path, kind: str) -> dict[str, bytes]:
    """Read the files of an ISO image by their Joliet or Rock Ridge names."""
    iso = pycdlib.PyCdlib()
    iso.open(str(path))
    found = {}
    for child in iso.list_children(**{f"{kind}_path": "/"}):
        if child is None or child.is_dot() or child.is_dotdot():
            continue
        if kind == "joliet":
            name = child.file_identifier().decode("utf-16-be")
        else:
            name = child.rock_ridge.name().decode()
        data = io.BytesIO()
        iso.get_file_from_iso_fp(data, **{f"{kind}_path": f"/{name}"})
        found[name] = data.getvalue()
    iso.close()
    return found


def cloud_config(text: str) -> dict[str, Any]:
    first, _, rest = text.partition("\n")
    assert first == "#cloud-config"
    config: dict[str, Any] = json.loads(rest)
    return config


@pytest.mark.parametrize("kind", ["joliet", "rr"])
def test_the_disk_holds_what_nocloud_looks_for(tmp_path: Path, made: Keys, kind: str) -> None:
    """Label and names are NoCloud's, whichever kind of name the guest's kernel reads."""
    path = tmp_path / "seed.iso"
    seed.write_seed(path, name="web-1", user="root", keys=made)
    found = read(path, kind)
    assert set(found) == {"meta-data", "user-data", "network-config"}
    assert json.loads(found["meta-data"]) == {"instance-id": "pytest-kvm-web-1", "local-hostname": "web-1"}
    assert found["user-data"].decode() == seed.user_data("root", made)
    assert json.loads(found["network-config"])["version"] == 2
    assert path.read_bytes()[16 * 2048 + 40 :][:32].strip() == b"cidata"


def test_the_keys_get_in(made: Keys) -> None:
    """The guest shows our host key and lets our user key in, and no password."""
    config = cloud_config(seed.user_data("root", made))
    assert config["ssh_keys"] == {
        "ed25519_private": made.host_private.read_text(),
        "ed25519_public": made.host_public,
    }
    assert config["users"] == [{"name": "root", "ssh_authorized_keys": [made.user_public]}]
    assert config["disable_root"] is config["ssh_pwauth"] is False


def test_another_user_gets_sudo(made: Keys) -> None:
    """Besides root, who stays reachable."""
    root, user = cloud_config(seed.user_data("debian", made))["users"]
    assert root["name"] == "root"
    assert user["name"] == "debian"
    assert user["sudo"] == "ALL=(ALL) NOPASSWD:ALL"
    assert user["ssh_authorized_keys"] == [made.user_public]


def test_the_command_shell_gets_in(made: Keys) -> None:
    """It is written byte for byte, executable, and started by a command that a shell accepts."""
    config = cloud_config(seed.user_data("root", made))
    (file,) = config["write_files"]
    assert file["content"] == asset("shell").read_text()
    assert file["permissions"] == "0755"
    ((program, option, script),) = config["bootcmd"]
    assert (program, option) == ("sh", "-c")
    assert file["path"] in script
    assert subprocess.run(["/bin/sh", "-n", "-c", script], check=False).returncode == 0


def test_long_content_survives(tmp_path: Path) -> None:
    """Files larger than a sector, and empty ones, come back as they were."""
    files = {"big": bytes(range(256)) * 100, "empty": b"", "a-name-that-is-longer-than-iso-allows": b"x"}
    seed.write_iso(tmp_path / "x.iso", files)
    assert read(tmp_path / "x.iso", "joliet") == files
    assert read(tmp_path / "x.iso", "rr") == files
