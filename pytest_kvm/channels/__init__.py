"""How one talks to a guest: console, monitor, commands; each unaware of what a guest is."""
