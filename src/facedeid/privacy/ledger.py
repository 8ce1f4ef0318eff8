"""Who has spent how much of a privacy budget: one SQLite file, written before anything else is.

Releases of one person's face compose sequentially: their ε add up. Faces of different people in
one photo compose in parallel: each is charged once, on its own account. A charge is durable before
the noise is drawn, so that an interruption can lose a picture but never a spend.
"""

import math
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from facedeid.errors import OptionError, PrivacyError

__all__ = ["EVERYBODY", "Account", "Ledger", "ledger_path"]

EVERYBODY = "*"
"""The account that holds the limit of all who have none of their own."""
SLACK = 1e-9
"""Relative: what rounding may add to a sum, so that three times 0.1 is within 0.3."""
WAIT = 60.0
"""Seconds to wait for another process."""
TABLES = """
create table if not exists accounts (subject text primary key, ceiling real not null);
create table if not exists spends (
    id integer primary key, subject text not null, epsilon real not null, at text not null,
    what text not null);
create index if not exists spends_of on spends (subject);
create table if not exists faces (subject text not null, vector blob not null);
"""


def ledger_path() -> Path:
    """Where the ledger is unless one is named: $FACEDEID_LEDGER, or below the user's data folder.

    That is $XDG_DATA_HOME or ~/.local/share (%LOCALAPPDATA% on Windows).

    Raises:
        PrivacyError: there is no home folder.
    """
    if named := os.environ.get("FACEDEID_LEDGER"):
        return Path(named)
    base = os.environ.get("XDG_DATA_HOME") or os.environ.get("LOCALAPPDATA")
    try:
        return (Path(base) if base else Path.home() / ".local/share") / "facedeid/budget.sqlite"
    except RuntimeError as error:
        raise PrivacyError(
            "there is no home folder for a ledger of budgets; name a file with --ledger or "
            "$FACEDEID_LEDGER"
        ) from error


@dataclass(frozen=True)
class Account:
    """What one subject has spent, in how many releases, and how much it may."""

    subject: str
    spent: float
    releases: int
    limit: float | None

    @property
    def left(self) -> float | None:
        """What remains; None: without limit."""
        return None if self.limit is None else max(0.0, self.limit - self.spent)


class Ledger:
    """The spends in one file; safe with several processes, and when one is killed.

    Args:
        path: the SQLite file; made, with its folder, when first written to.

    Raises:
        PrivacyError: the file cannot be opened or is no ledger.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or ledger_path()

    def accounts(self, subject: str | None = None) -> list[Account]:
        """All accounts, or one (empty if nobody knows it), by name; the general limit is none."""
        if not self._exists():
            return []
        with self._open() as db:
            known = {row[0] for row in db.execute("select subject from spends")}
            known |= {row[0] for row in db.execute("select subject from accounts")}
            names = sorted(known - {EVERYBODY}) if subject is None else [_stored(subject)]
            return [self._account(db, name) for name in names if name in known]

    def general_limit(self) -> float | None:
        """Of all who have no limit of their own."""
        if not self._exists():
            return None
        with self._open() as db:
            return self._limit(db, EVERYBODY)

    def set_limit(self, subject: str, limit: float | None) -> None:
        """Limit what a subject (or `EVERYBODY`) may spend.

        None takes the limit away: a subject then has that of `EVERYBODY`, if there is one.

        Raises:
            OptionError: a limit that is negative or no number; a subject without a name.
        """
        if not subject:
            raise OptionError("a subject needs a name; it is empty")
        if limit is not None and not (limit >= 0 and math.isfinite(limit)):
            raise OptionError(f"a limit must be a number from 0 up, got {limit:g}")
        with self._writing() as db:
            subject = _stored(subject)
            db.execute("delete from accounts where subject = ?", (subject,))
            if limit is not None:
                db.execute("insert into accounts values (?, ?)", (subject, limit))

    def reset(self, subject: str | None = None) -> int:
        """Forget what one subject, or everybody, has spent, and their faces; limits stay.

        What was released stays released: this is for mistakes and for tests. Returns how many
        spends were forgotten.
        """
        if not self._exists():
            return 0
        where, values = ("", ()) if subject is None else (" where subject = ?", (_stored(subject),))
        with self._writing() as db:
            db.execute(f"delete from faces{where}", values)
            return db.execute(f"delete from spends{where}", values).rowcount

    def spend(self, charges: Mapping[str, float], *, what: str = "") -> None:
        """Charge each subject once, all or none; durable when this returns.

        Args:
            charges: subject -> ε of a release about to be made.
            what: a word on the release, kept with it.

        Raises:
            PrivacyError: a limit would be passed; nothing was charged.
        """
        with self._writing() as db:
            self._spend(db, charges, what)

    def spend_on_faces(
        self, vectors: Iterable[Tensor], nearest: float, epsilon: float, *, what: str = ""
    ) -> dict[str, float]:
        """Charge each face by its vector D: as `face-1`, `face-2`, ..., new or as seen before.

        The vectors stay in the ledger, which is biometric data: for `--subject cluster` only.

        Args:
            vectors: of a recogniser with Euclidean distance.
            nearest: distance below which two faces are one person.
            epsilon: of the release of one face.
            what: a word on the release, kept with it.

        Returns:
            What was charged to whom.

        Raises:
            PrivacyError: a limit would be passed; nothing was charged, and no vector is kept.
        """
        with self._writing() as db:
            names = Counter(self._subject_of(db, vector, nearest) for vector in vectors)
            charges = {name: count * epsilon for name, count in names.items()}
            self._spend(db, charges, what)
        return charges

    def _spend(self, db: sqlite3.Connection, charges: Mapping[str, float], what: str) -> None:
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        for subject, epsilon in charges.items():
            if not epsilon > 0:
                raise OptionError(f"a charge must be positive, got {epsilon:g} for {subject}")
            account = self._account(db, _stored(subject))
            if account.limit is not None and account.spent + epsilon > account.limit * (1 + SLACK):
                raise PrivacyError(
                    f"the budget of {account.subject} is spent: {account.spent:g} of "
                    f"{account.limit:g} is used and a release needs {epsilon:g}; nothing was "
                    "released. Raise the limit with `facedeid budget set`, or spend less"
                )
            db.execute(
                "insert into spends (subject, epsilon, at, what) values (?, ?, ?, ?)",
                (account.subject, epsilon, moment, what),
            )

    def _subject_of(self, db: sqlite3.Connection, vector: Tensor, nearest: float) -> str:
        rows = db.execute("select subject, vector from faces").fetchall()
        own, name = vector.detach().cpu().float(), None
        if rows:
            known = torch.stack(
                [torch.frombuffer(bytearray(row[1]), dtype=torch.float32) for row in rows]
            )
            distances = (known - own).norm(dim=1)
            best = int(distances.argmin())
            name = str(rows[best][0]) if distances[best] < nearest else None
        if name is None:
            name = f"face-{_last_face(db) + 1}"
        db.execute("insert into faces values (?, ?)", (name, own.numpy().tobytes()))
        return name

    def _account(self, db: sqlite3.Connection, subject: str) -> Account:
        spent = [
            row[0] for row in db.execute("select epsilon from spends where subject = ?", (subject,))
        ]
        limit = self._limit(db, subject)
        general = self._limit(db, EVERYBODY)
        return Account(subject, math.fsum(spent), len(spent), general if limit is None else limit)

    def _limit(self, db: sqlite3.Connection, subject: str) -> float | None:
        row = db.execute("select ceiling from accounts where subject = ?", (subject,)).fetchone()
        return None if row is None else float(row[0])

    def _exists(self) -> bool:
        try:
            self.path.stat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise PrivacyError(f"the ledger {self.path} cannot be opened: {error}") from error
        return True

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise PrivacyError(f"the ledger {self.path} cannot be opened: {error}") from error
        try:
            db.execute("pragma synchronous = extra")
            db.executescript(TABLES)
            yield db
        except sqlite3.Error as error:
            raise PrivacyError(
                f"the ledger {self.path} cannot be used ({error}); nothing was released"
            ) from error
        finally:
            db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One writer at a time; committed at the end, or nothing at all."""
        with self._open() as db:
            db.execute("begin immediate")
            try:
                yield db
            except BaseException:
                db.execute("rollback")
                raise
            db.execute("commit")


def _stored(subject: str) -> str:
    """A subject as the file can hold it: what is not Unicode (a folder's name) is written out."""
    return subject.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _last_face(db: sqlite3.Connection) -> int:
    """The highest number of a face with a vector, a spend or a limit."""
    names = db.execute(
        "select subject from faces union select subject from spends union select subject "
        "from accounts"
    )
    numbers = [row[0].removeprefix("face-") for row in names if row[0].startswith("face-")]
    return max((int(number) for number in numbers if number.isdecimal()), default=0)
