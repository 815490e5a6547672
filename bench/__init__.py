"""Comparisons with peers, and with what the machine could do. `python -m bench --help`; no part of the package."""
