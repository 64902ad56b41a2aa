"""How QEMU is found, told and run."""
