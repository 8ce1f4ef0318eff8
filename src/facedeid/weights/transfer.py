"""Fetching a checkpoint: resumable, into a temporary file, checked before it counts."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

from facedeid.errors import WeightsError
from facedeid.weights.local import (
    accept,
    by_hand,
    entry,
    import_file,
    locate,
    prepare,
    status,
)
from facedeid.weights.registry import Checkpoint

__all__ = ["Progress", "download", "fetch"]

Progress = Callable[[int, int | None], None]
"""Bytes so far and in all (None: the server does not say)."""

_CHUNK = 1 << 18
_TIMEOUT = 30.0


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """From https, on to https only: the content of some files is trusted on first use."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.URLError(f"the server redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(name: str, progress: Progress | None = None) -> Path:
    """Have a checkpoint in the store, fetching it if it is not there.

    A transfer that was cut off goes on where it stopped. Files with a known hash must have it;
    others are recorded as they came and held to that from then on.

    Returns:
        The verified file.

    Raises:
        WeightsError: no network, no such file, wrong content, or a layout that has to be
            converted first (`facedeid.checkpoints.download`).
    """
    known = entry(name)
    if status(name).state != "missing":
        return locate(name)
    if known.converted:
        raise WeightsError(f"{known.filename} is converted; run: facedeid models download {name}")
    fetched = fetch(name, progress)
    import_file(name, fetched)
    fetched.unlink()
    return locate(name)


def fetch(name: str, progress: Progress | None = None) -> Path:
    """The published file, complete and of the right content, as a temporary file of the store.

    Raises:
        WeightsError: as `download`.
    """
    known = entry(name)
    if not known.urls:
        raise WeightsError(f"{name} has no address to fetch it from; {by_hand(known)}")
    part = prepare() / f"{known.filename}.part"
    problems = []
    for url in known.urls:
        try:
            _transfer(url, part, progress or (lambda done, total: None))
            return _checked(known, part, url)
        except (OSError, HTTPException, WeightsError) as error:
            reason = getattr(error, "reason", None) or error
            problems.append(f"{url}: {reason}")
    raise WeightsError(f"{name} was not fetched. {'; '.join(problems)}. Otherwise {by_hand(known)}")


def _checked(known: Checkpoint, part: Path, url: str) -> Path:
    try:
        accept(known, part)
    except WeightsError as error:
        _forget(part)
        raise WeightsError(f"the content is wrong and was thrown away ({error})") from error
    _note(part).unlink(missing_ok=True)
    return part


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _validator(headers: Message) -> str | None:
    """What identifies the server's version of the file, if it says so strongly."""
    etag = headers.get("ETag")
    if etag is not None and not etag.startswith("W/"):
        return etag
    return headers.get("Last-Modified")


def _resumable(url: str, part: Path) -> str | None:
    """The validator with which the transfer of `part` can go on; None: start over."""
    try:
        note = json.loads(_note(part).read_text("utf-8"))
        same = note["url"] == url and part.stat().st_size > 0
        return str(note["validator"]) if same and note["validator"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _transfer(url: str, part: Path, progress: Progress) -> None:
    validator = _resumable(url, part)
    headers = {"User-Agent": "facedeid", "Accept-Encoding": "identity"}
    start = 0
    if validator is not None:
        start = part.stat().st_size
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    opener = urllib.request.build_opener(_SafeRedirects)
    try:
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416 or not start:
            raise
        _forget(part)  # what is here is not a beginning of what is there
        return _transfer(url, part, progress)
    with response:
        _receive(response, url, part, start, progress)
    return None


def _receive(response: Any, url: str, part: Path, start: int, progress: Progress) -> None:
    headers: Message = response.headers
    if headers.get_content_type() == "text/html":
        raise WeightsError("the server sent a web page instead of the file")
    resumed = response.status == 206 and start > 0
    if resumed and not headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        _forget(part)
        raise WeightsError("the server resumed at the wrong place; try again")
    done = start if resumed else 0
    length = headers.get("Content-Length")
    total = None if length is None else done + int(length)
    if not resumed:
        _forget(part)
        _note(part).write_text(json.dumps({"url": url, "validator": _validator(headers)}), "utf-8")
    with part.open("r+b" if resumed else "wb") as file:
        file.seek(done)
        progress(done, total)
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            done += len(chunk)
            progress(done, total)
    if total is not None and done != total:
        raise WeightsError(
            f"the transfer ended after {done} of {total} bytes; run it again to go on"
        )
