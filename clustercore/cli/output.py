"""What commands print: JSON for programs, text and tables for people."""

from __future__ import annotations

import json
import sys

from rich.console import Console

__all__ = ["console", "print_json", "print_line"]


def console() -> Console:
    """Return a console for tables on standard output. Into a file or pipe it writes lines of up to 200 columns."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def print_json(value: object) -> None:
    """Print a value as one line of JSON, at once."""
    print_line(json.dumps(value, ensure_ascii=False))


def print_line(text: str) -> None:
    """Print a line at once: whoever reads a pipe waits for it."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
