"""How a command runs: its guard, its messages, its progress, and how it stops."""
