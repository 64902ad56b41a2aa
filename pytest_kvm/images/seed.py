"""A cloud-init seed: the small disk from which a cloud image learns its name, keys and command shell."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

from pytest_kvm.images.cache import asset

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_kvm.images.keys import Keys

_LABEL = "cidata"  # the volume label that cloud-init's NoCloud data source looks for
_SHELL = "/usr/local/lib/pytest-kvm-shell"


def write_seed(path: Path, *, name: str, user: str, keys: Keys) -> None:
    """Write an ISO 9660 image with NoCloud's files.

    :param name: host name and instance id.
    :param user: who may log in with the key, besides root; made with ``sudo`` when it is another.
    """
    files = {
        "meta-data": json.dumps({"instance-id": f"pytest-kvm-{name}", "local-hostname": name}),
        "user-data": user_data(user, keys),
        "network-config": network_config(),
    }
    write_iso(path, {name: text.encode() for name, text in files.items()})


def user_data(user: str, keys: Keys) -> str:
    """Write the cloud-config; JSON is YAML, so nothing needs quoting by hand."""
    people: list[object] = [{"name": "root", "ssh_authorized_keys": [keys.user_public]}]
    if user != "root":
        sudo = {"sudo": "ALL=(ALL) NOPASSWD:ALL", "shell": "/bin/sh", "lock_passwd": True}
        people.append({"name": user, "ssh_authorized_keys": [keys.user_public], **sudo})
    config = {
        "disable_root": False,
        "ssh_pwauth": False,
        "ssh_deletekeys": True,
        "ssh_keys": {"ed25519_private": keys.host_private.read_text(), "ed25519_public": keys.host_public},
        "users": people,
        "growpart": {"mode": "auto"},
        "write_files": [{"path": _SHELL, "permissions": "0755", "content": asset("shell").read_text()}],
        "bootcmd": [["sh", "-c", _START_SHELL]],
    }
    return "#cloud-config\n" + json.dumps(config, indent=1) + "\n"


# bootcmd runs at every boot (runcmd only at the first), early, and before write_files at the first one. With
# systemd the shell is a service, queued until cloud-init is done: an idle guest is worth waiting for.
_RUN_SHELL = f"until [ -x {_SHELL} ]; do sleep 0.2; done; exec {_SHELL}"
_START_SHELL = f"""
modprobe -q virtio_console
if command -v systemd-run >/dev/null; then
    systemd-run --no-block --unit=pytest-kvm-shell -p After=cloud-final.service sh -c '{_RUN_SHELL}'
else
    setsid sh -c '{_RUN_SHELL}' </dev/null >/dev/null 2>&1 &
fi
"""


def network_config() -> str:
    """Write the network configuration: DHCP on every Ethernet card."""
    every_card = {"match": {"name": "e*"}, "dhcp4": True}
    return json.dumps({"version": 2, "ethernets": {"cards": every_card}})


def write_iso(path: Path, files: dict[str, bytes]) -> None:
    """Write an ISO 9660 image with Joliet and Rock Ridge names, labelled for NoCloud."""
    import pycdlib

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=_LABEL)
    for number, (name, data) in enumerate(files.items()):
        iso.add_fp(io.BytesIO(data), len(data), f"/F{number}.;1", rr_name=name, joliet_path=f"/{name}")
    iso.write(str(path))
    iso.close()
