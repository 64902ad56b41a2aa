"""What an image says of itself."""

from __future__ import annotations

import pytest

from pytest_kvm import Image


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (Image(name="cloud", provision="cloud-init", channels=("shell", "ssh")), True),
        (Image(name="plain", channels=("ssh",)), False),
        (Image(name="tiny", provision="fw_cfg", channels=("shell",)), False),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_only_a_supposed_cloud_image_needs_the_hint(image: Image, says: bool) -> None:
    """When a disk that was taken for a cloud image does not become ready, it is said how to declare it."""
    assert ("kvm_images" in image.hint) is says
