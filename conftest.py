"""What the whole suite shares: pytest run inside tests, and one cache for them all."""

import os

from pytest_kvm.images import cache

pytest_plugins = ["pytester"]

# A run inside a test has a home directory of its own; images and verdicts shall not be made anew in each.
os.environ["XDG_CACHE_HOME"] = str(cache.directory().parent)
