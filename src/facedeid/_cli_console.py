"""What the commands have in common, and what they print on."""

import io
import sys
from typing import Any, TextIO

import typer
from rich.console import Console
from rich.text import Text

__all__ = ["application", "console", "encodable"]


def application(**options: Any) -> typer.Typer:
    """A command or a group of them, without shell completion: a sub-command's would not work."""
    return typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **options,
    )


class _Console(Console):
    """Names of files come from anywhere: what a terminal would obey is shown as a mark."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(text.translate(_OBEYED), **options)


_OBEYED = dict.fromkeys((0x1B, 0x9B), "\ufffd")
"""What begins a sequence that colours, clears or renames a terminal."""


def console(*, stderr: bool = False, markup: bool = True) -> Console:
    """A console on stdout, wide where that is no terminal, or on stderr.

    Names and paths come out as they are, `:car:` without a picture.
    """
    stdout: TextIO | None = sys.stdout  # None where a shell has closed it
    width = None if stderr or (stdout is not None and stdout.isatty()) else 200
    return _Console(
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
