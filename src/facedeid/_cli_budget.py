"""`facedeid budget`: what releases have spent of each person's privacy, and limits to it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from facedeid._cli_console import application, console
from facedeid.errors import OptionError

if TYPE_CHECKING:
    from facedeid.privacy import Account, Ledger

__all__ = ["app"]

app = application(help="Privacy budgets: what releases have spent, and limits to it.")
out = console()

File = Annotated[
    Path | None,
    typer.Option("--ledger", help="File of the budgets; $FACEDEID_LEDGER or the user's own."),
]


@app.callback(invoke_without_command=True)
def budget(context: typer.Context, ledger: File = None) -> None:
    """Privacy budgets. Without a command: show."""
    if context.invoked_subcommand is None:
        show(ledger=ledger)
    elif ledger is not None:
        raise OptionError(f"give --ledger after the command: budget {context.invoked_subcommand}")


@app.command()
def show(
    subject: Annotated[str | None, typer.Argument(help="Whose. Without: everybody's.")] = None,
    ledger: File = None,
) -> None:
    """List who has spent how much, in how many releases, and what is left."""
    from facedeid.privacy import Ledger

    book = Ledger(ledger)
    accounts = _accounts(book, subject)
    table = Table()
    for head in ("subject", "spent ε", "releases", "limit", "left"):
        table.add_column(head, overflow="fold")
    for account in accounts:
        limit = "none" if account.limit is None else f"{account.limit:g}"
        left = "" if account.left is None else f"{account.left:g}"
        table.add_row(
            escape(account.subject), f"{account.spent:g}", str(account.releases), limit, left
        )
    out.print(table)
    general = book.general_limit()
    out.print(f"limit of all others: {'none' if general is None else f'{general:g}'}")
    out.print(f"ledger {escape(str(book.path))}")


def _accounts(book: "Ledger", subject: str | None) -> "list[Account]":
    """All, or one.

    Raises:
        OptionError: nobody knows it.
    """
    accounts = book.accounts(subject)
    if subject is not None and not accounts:
        raise OptionError(f"the ledger {book.path} knows nobody called {subject!r}")
    return accounts


@app.command("set")
def set_limit(
    limit: Annotated[str, typer.Argument(help="Most that may be spent (ε), or the word none.")],
    subject: Annotated[
        str | None, typer.Argument(help="Whose. Without: of all who have none of their own.")
    ] = None,
    ledger: File = None,
) -> None:
    """Limit what may be spent of one subject, or of everybody who has no limit of their own."""
    from facedeid.privacy import EVERYBODY, Ledger

    try:
        value = None if limit == "none" else float(limit)
    except ValueError:
        raise OptionError(f"the limit must be a number or none, got {limit!r}") from None
    book = Ledger(ledger)
    book.set_limit(EVERYBODY if subject is None else subject, value)
    everybody = subject in (None, EVERYBODY)
    general = None if everybody or value is not None else book.general_limit()
    said = limit if general is None else f"none of its own; that of all others, {general:g}, holds"
    out.print(f"limit of {escape('everybody' if everybody else str(subject))}: {said}")


@app.command()
def reset(
    subject: Annotated[str | None, typer.Argument(help="Whose, unless --all is given.")] = None,
    everybody: Annotated[bool, typer.Option("--all", help="What everybody spent.")] = False,
    ledger: File = None,
) -> None:
    """Forget what was spent (and stored faces). What was released stays released."""
    from facedeid.privacy import Ledger
    from facedeid.report import counted

    if (subject is None) != everybody:
        raise OptionError("say whose spends are to be forgotten: a subject, or --all")
    book = Ledger(ledger)
    _accounts(book, subject)
    forgotten = book.reset(subject)
    out.print(f"{counted(forgotten, 'release')} forgotten; limits are kept")
