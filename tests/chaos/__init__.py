"""Fault experiments against real processes (`make chaos`); `python -m tests.chaos --help` says how."""
