"""The file that holds the records: JSON lines that survive being interrupted at any moment."""

import contextlib
import json
import os
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from facedeid.errors import OptionError, OutputError
from facedeid.imaging import TEMPORARY_PREFIX
from facedeid.report.records import SCHEMA, summary_record

if sys.platform != "win32":
    import fcntl

__all__ = ["Writer", "read_records", "write_jsonl", "write_whole"]


class Writer:
    """Appends records to a file, each whole or not at all; a context manager.

    A line torn by a kill is removed when the file is opened again. `private`: only the owner may
    read the file.

    Raises:
        OutputError: the file cannot be opened or written (the line is then taken back), or another
            Writer has it open (not seen on Windows).
        OptionError: the file is something else.
    """

    def __init__(self, path: Path, *, private: bool = False) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        try:
            self._file = os.open(path, flags, 0o600 if private else 0o666)
            try:
                self._begin(private=private)
            except BaseException:
                os.close(self._file)
                raise
        except OSError as error:
            raise OutputError(f"cannot write the report {path}: {error.strerror}") from error

    def _begin(self, *, private: bool) -> None:
        if not _taken(self._file):
            raise OutputError(f"another run is writing {self.path}; wait until it has ended")
        whole = _whole(self.path.read_bytes(), self.path)[0]
        if private:  # one that was there already
            self.path.chmod(0o600)
        os.ftruncate(self._file, whole)
        os.lseek(self._file, whole, os.SEEK_SET)

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one record in one call."""
        data = (json.dumps(line, allow_nan=False) + "\n").encode("ascii")
        start = os.lseek(self._file, 0, os.SEEK_CUR)
        try:
            if os.write(self._file, data) != len(data):
                raise OSError(0, "the disk is full")
        except OSError as error:
            os.ftruncate(self._file, start)
            os.lseek(self._file, start, os.SEEK_SET)
            raise OutputError(f"cannot write the report {self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Hand everything to the disk."""
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _taken(file: int) -> bool:
    """Keep others from an open file until it is closed, if it can be; False: another has it."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
    return True


def read_records(path: Path) -> list[dict[str, Any]]:
    """All whole records; lines torn by a kill are passed over, as if never written.

    Raises:
        OptionError: there is no such file, or its first line is not one of a report.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OptionError(f"cannot read the report {path}: {error.strerror}") from error
    return _whole(data, path)[1]


def _whole(data: bytes, path: Path) -> tuple[int, list[dict[str, Any]]]:
    """Length of the whole lines in bytes, and their records. What lacks its newline is torn."""
    end = data.rfind(b"\n") + 1
    head = json.dumps({"schema": SCHEMA})[:-1].encode()
    if not end and not (data.startswith(head) or head.startswith(data)):
        raise OptionError(f"{path} is not a facedeid report: name another file")
    found = [_parsed(line) for line in data[:end].splitlines()]
    if found and (found[0] or {}).get("schema") != SCHEMA:
        raise OptionError(
            f"{path} is not a facedeid report ({SCHEMA}): name another file, or move this one "
            "away and start afresh"
        )
    return end, [entry for entry in found if entry is not None]


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def write_jsonl(
    path: Path, records: Sequence[Mapping[str, Any]], *, interrupted: bool = False
) -> None:
    """Write a whole report at once, replacing an older one; a missing summary is added.

    Args:
        path: where to.
        records: the run's and the photos', perhaps the summary's.
        interrupted: whether the run ended before its last photo; goes into the summary.

    Raises:
        OutputError: it cannot be written; an older one is still there.
    """
    lines = list(records)
    if not lines or lines[-1].get("type") != "summary":
        lines.append(summary_record(records, interrupted=interrupted))
    write_whole(path, (json.dumps(line, allow_nan=False) + "\n" for line in lines))


def write_whole(path: Path, chunks: Iterable[str | bytes], *, private: bool = False) -> None:
    """Write a file under a temporary name and put it into its place when it is whole.

    Text is written as UTF-8. `private`: only the owner may read the file.

    Raises:
        OutputError: it cannot be written; what was there before still is.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(temporary, flags, 0o600 if private else 0o666), "wb") as file:
            for chunk in chunks:
                file.write(chunk if isinstance(chunk, bytes) else chunk.encode("utf-8", "replace"))
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
