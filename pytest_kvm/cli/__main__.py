"""``python -m pytest_kvm.cli``: the command where its script is not on the path."""

import sys

from pytest_kvm.cli import main

sys.exit(main())
