"""Section Four: rates account and transaction risk, and proves that it was allowed to."""

__version__ = "0.1.0"
