"""Code shared by test files: networks, files, an oracle, programs that run in separate processes."""

from pathlib import Path

SUPPORT = Path(__file__).parent
"""This folder: where the scripts stand that run in processes of their own."""
