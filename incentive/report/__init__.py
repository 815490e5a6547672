"""A run directory as one self-contained page. It reads files, ledger and measures; no stage imports it; no torch."""

from incentive.report.page import write_report

__all__ = ["write_report"]
