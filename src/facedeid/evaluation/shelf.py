"""Rows of numbers by name on disk: what has been worked out once, and how long it took.

Rows lie in .npz files that are written whole under a temporary name, each process its own, so
that a run may be killed at any time and several may share a folder. A file that is damaged (its
check sums tell) is dropped, and its rows are worked out again.
"""

import contextlib
import io
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facedeid.errors import OutputError
from facedeid.evaluation.sources import CACHE_MARKER
from facedeid.report import write_whole

__all__ = ["Shelf", "cache_of", "folder_of"]

FLUSH, FILES = 256, 8
"""Rows that are held before they are written, and files from which on they are merged."""


def folder_of(path: Path) -> Path:
    """The folder, made if it is not there; for its owner only, since it tells about people.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path}: {error.strerror}") from error
    return path


def cache_of(path: Path) -> Path:
    """The folder as `folder_of`, marked as a cache, so that nobody takes what is in it for data.

    Raises:
        OutputError: it cannot be made.
    """
    marker = folder_of(path) / CACHE_MARKER
    if not marker.exists():
        write_whole(marker, ["{}\n"], private=True)
    return path


class Shelf:
    """Rows of one width, by name.

    Args:
        folder: where they are kept; belongs to one setting of whatever works them out.
        width: numbers in a row.
        dtype: of the numbers.

    Raises:
        OutputError: the folder cannot be made.
    """

    def __init__(self, folder: Path, width: int, dtype: type[np.floating[Any]] = np.float32):
        self.folder, self.width, self.dtype = folder_of(folder), width, dtype
        self._rows: dict[str, tuple[NDArray[Any], float]] = {}
        self._new: list[str] = []
        files = [file for file in sorted(folder.glob("rows-*.npz")) if self._read(file)]
        if len(files) > FILES:
            self._write(list(self._rows))
            for file in files:
                file.unlink(missing_ok=True)

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def get(self, name: str) -> NDArray[Any] | None:
        """The row of that name, if there is one."""
        found = self._rows.get(name)
        return None if found is None else found[0]

    def rows(self, names: Iterable[str]) -> NDArray[Any]:
        """N×width; all of them must be there."""
        found = [self._rows[name][0] for name in names]
        return np.stack(found) if found else np.zeros((0, self.width), self.dtype)

    def seconds(self, names: Iterable[str]) -> list[float]:
        """What each row took, of those that are there."""
        return [self._rows[name][1] for name in names if name in self._rows]

    def put(self, name: str, row: Any, seconds: float = 0.0) -> None:
        """Keep a row; it is on disk after `flush`, or as soon as enough have come together."""
        self._rows[name] = np.asarray(row, self.dtype).reshape(self.width), seconds
        self._new.append(name)
        if len(self._new) >= FLUSH:
            self.flush()

    def flush(self) -> None:
        """Write what is new.

        Raises:
            OutputError: it cannot be written.
        """
        if self._new:
            self._write(self._new)
            self._new = []

    def _write(self, names: list[str]) -> None:
        held = [self._rows[name] for name in names]
        buffer = io.BytesIO()
        np.savez(
            buffer,
            names=np.array([os.fsencode(name) for name in names]),
            rows=np.stack([row for row, _ in held]),
            seconds=np.array([seconds for _, seconds in held]),
        )
        write_whole(
            self.folder / f"rows-{secrets.token_hex(8)}.npz", [buffer.getvalue()], private=True
        )

    def _read(self, file: Path) -> bool:
        """Whether its rows are here now; a damaged file is dropped."""
        try:
            content = file.read_bytes()
        except OSError:  # that it cannot be read now does not say that it is damaged
            return False
        try:
            self._rows |= self._parsed(content)
        except Exception:  # damaged archives raise what they like
            with contextlib.suppress(OSError):
                file.unlink()
            return False
        return True

    def _parsed(self, content: bytes) -> dict[str, tuple[NDArray[Any], float]]:
        with np.load(io.BytesIO(content), allow_pickle=False) as held:
            names, rows, seconds = held["names"].tolist(), held["rows"], held["seconds"]
        if rows.shape != (len(names), self.width):
            raise ValueError("rows of another width")
        found = zip(names, rows.astype(self.dtype), seconds.tolist(), strict=True)
        return {os.fsdecode(name): (row, took) for name, row, took in found}
