"""What the commands have in common, and what they print on."""

import io
import sys
from typing import Any

import typer
from rich.console import Console

__all__ = ["application", "console", "encodable"]


def application(**options: Any) -> typer.Typer:
    """A command or a group of them, without shell completion: a sub-command's would not work."""
    return typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **options,
    )


def console(*, stderr: bool = False, markup: bool = True) -> Console:
    """A console on stdout, wide where that is no terminal, or on stderr.

    Names and paths come out as they are, `:car:` without a picture.
    """
    width = None if stderr or sys.stdout.isatty() else 200
    return Console(
        stderr=stderr, highlight=False, soft_wrap=True, markup=markup, emoji=False, width=width
    )


def encodable() -> None:
    """Let stdout and stderr print `?` for what their encoding lacks (ε), instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        bytes_pass = stream.errors == "surrogateescape" and stream.encoding.lower() == "utf-8"
        if stream.errors in ("strict", "surrogateescape") and not bytes_pass:
            stream.reconfigure(errors="replace")
