"""What several test files use: networks, files, an oracle, programs that run in processes of their own."""

from pathlib import Path

SUPPORT = Path(__file__).parent
"""This folder: where the scripts stand that run in processes of their own."""
