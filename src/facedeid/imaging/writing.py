"""Writing photos: whole or not at all, and never over an original."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from facedeid.errors import OutputError
from facedeid.imaging.encoding import encode, format_for
from facedeid.imaging.metadata import Mode
from facedeid.imaging.photo import Photo, Source

__all__ = ["TEMPORARY_PREFIX", "remove", "staged", "write"]

TEMPORARY_PREFIX = ".facedeid-"
"""Names of unfinished files begin so; only a killed process leaves any, and they can be deleted."""


def write(
    photo: Photo,
    path: str | os.PathLike[str],
    *,
    metadata: Mode = "strip",
    overwrite: bool = False,
) -> None:
    """Write a photo, in the format of its source unless the new name has another known suffix.

    Args:
        photo: what to write.
        path: a new file in an existing folder.
        metadata: what of the source's metadata goes along; `selected` in `imaging.metadata`
            says what each mode keeps.
        overwrite: replace an existing file. The file that the photo was read from is never
            replaced, whatever its name here.

    Raises:
        OptionError: no such metadata mode.
        OutputError: the file exists, is the source, or cannot be written. Nothing is left behind.
    """
    with staged(photo, path, metadata=metadata, overwrite=overwrite):
        pass


@contextlib.contextmanager
def staged(
    photo: Photo,
    path: str | os.PathLike[str],
    *,
    metadata: Mode = "strip",
    overwrite: bool = False,
) -> Iterator[Path]:
    """Write a photo under a temporary name beside `path`, and release it at the end of the block.

    The block gets the temporary path and can check the picture exactly as written. If it raises,
    the file is removed and nothing is released. Arguments and errors are those of `write`.
    """
    target = Path(path)
    _check_target(target, photo.source, overwrite)
    data = encode(photo, format_for(photo, target), metadata=metadata)
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.tmp")
    try:
        with _explained(target):
            _store(data, temporary)
        yield temporary
        _check_target(target, photo.source, overwrite)
        with _explained(target):
            _release(temporary, target, overwrite)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove(path: str | os.PathLike[str], *, unless: Photo) -> None:
    """Remove an earlier result, where there is one; never the file that `unless` was read from.

    Raises:
        OutputError: it is that file, no file at all, or cannot be removed.
    """
    target = Path(path)
    _check_target(target, unless.source, overwrite=True)
    with _explained(target):
        target.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{target}: {_reason(error, target)}") from error


def _reason(error: OSError, target: Path) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "the disk is full; nothing was written"
        case errno.EEXIST:
            return "exists already; nothing was written"
        case errno.ENOENT:
            return f"the folder {target.parent} does not exist"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "no permission to write there"
    return f"cannot be written: {error.strerror or error}"


def _check_target(target: Path, source: Source | None, overwrite: bool) -> None:
    """Refuse the source itself, existing files unless asked, and what is not a file."""
    with _explained(target):
        try:
            found = target.lstat()
        except FileNotFoundError:
            return
        except ValueError as error:  # a NUL in the name
            raise OutputError(f"{str(target)!r} is no file name: {error}") from error
        if source and _is_source(target, source):
            raise OutputError(
                f"{target} is the original of the photo, which is never overwritten; "
                "choose another folder or name"
            )
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            raise OutputError(f"{target} exists and is not a file")
        if not overwrite:
            raise FileExistsError(errno.EEXIST, "exists")


def _is_source(target: Path, source: Source) -> bool:
    """Whether the name leads to the source: itself, a link, or another name of the same file."""
    try:
        found = target.stat()
    except OSError:  # a dangling or circular link
        return False
    same_file = (found.st_dev, found.st_ino) == (source.device, source.inode)
    return same_file or target.resolve() == source.path


def _store(data: bytes, path: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with open(path, "wb", opener=lambda name, _: os.open(name, flags, 0o666)) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _release(temporary: Path, target: Path, overwrite: bool) -> None:
    """Give the finished file its name; without `overwrite`, only if the name is still free."""
    if overwrite:
        temporary.replace(target)
    else:
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, "exists") from None
            temporary.replace(target)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
