"""Many photos: which ones, where they go, several at a time, and going on after an interruption.

The manifest (`facedeid-run.jsonl` in the output folder) gets one line before a photo is begun and
one when it is done; the report is made from it. Whatever happens in between, a photo is either
done, with its line, or begun again by `resume`.
"""

import contextlib
import dataclasses
import functools
import glob
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from facedeid import imaging, report
from facedeid.defaults import METHOD
from facedeid.errors import FacedeidError, OptionError, OutputError, WeightsError
from facedeid.faces import Face
from facedeid.methods import Method
from facedeid.models import Models, Recognizer
from facedeid.pipeline import UNPROTECTED, PhotoReport, Settings, protect_file
from facedeid.plan import Choose, Plan
from facedeid.privacy import Ledger
from facedeid.selection import Selection
from facedeid.weights import sha256_of

__all__ = [
    "MANIFEST",
    "NOT_FOLLOWED",
    "Done",
    "Found",
    "Run",
    "Source",
    "check_together",
    "collect",
    "protect_folder",
    "selected",
]

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

MANIFEST = "facedeid-run.jsonl"
"""Name of the manifest in the output folder."""
REPORT_HTML = "facedeid-report.html"
REPORT_JSONL = "facedeid-report.jsonl"
SHEETS = "contact-sheets"
"""Folder of the draws side by side."""
MOST_DRAWS = 1000
"""More cannot be seen side by side."""
LONGEST_NAME = 255
"""Bytes that file systems give the name of a file."""
PATIENCE = 0.2
"""Seconds between looks at whether a run with workers is to end at once."""
NOT_FOLLOWED = "linked folders, not followed; name them as arguments to include them"
"""What to say of them, after their number."""
RESERVED = (MANIFEST, REPORT_HTML, REPORT_JSONL)


@dataclass(frozen=True)
class Source:
    """A photo to be read and the path of its result below the output folder."""

    path: Path
    relative: str


@dataclass(frozen=True)
class Done:
    """One line of the manifest: a finished photo."""

    photo: str
    stamp: str
    """Size and modification time of the source: another file of that name is done afresh."""
    record: Mapping[str, Any]
    previews: Sequence[Mapping[str, str]]
    origin: str | None = None
    """Tells sources of the same name apart (see `_origin`); earlier versions did not note it."""

    @property
    def status(self) -> str:
        """See `pipeline.PhotoReport`."""
        return str(self.record["status"])


@dataclass
class Run:
    """The outcome of a run over many photos."""

    output: Path
    total: int
    done: list[Done] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    """Files in the given folders that are no photos."""
    links: list[str] = field(default_factory=list)
    """Symbolic links to folders in the given folders; they are not followed."""
    interrupted: bool = False
    resumed: int = 0
    """Photos that an earlier run had finished."""
    earlier: list[Done] = field(default_factory=list)
    """What earlier runs did with other photos in the same folder: in the report only."""

    @property
    def counts(self) -> Counter[str]:
        """Photos by status."""
        return Counter(item.status for item in self.done)

    @property
    def report_path(self) -> Path:
        """The page that shows what happened to every face."""
        return self.output / REPORT_HTML


# ------------------------------------------------------------------------------- what goes in


@dataclass
class Found:
    """What inputs hold."""

    sources: list[Source] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    """Files in the given folders that are no photos."""
    links: list[str] = field(default_factory=list)
    """Symbolic links to folders in the given folders; they are not followed."""

    @property
    def linked(self) -> str:
        """What to say of the links; empty where there are none."""
        return f"{len(self.links)} {NOT_FOLLOWED}" if self.links else ""


def collect(inputs: Sequence[str | Path], output: Path | None) -> Found:
    """Photos among files, folders (recursively) and glob patterns.

    A file given by name keeps its name in the output folder, one found in a folder its path below
    that folder; one that is given twice is taken once. The output folder is left out (None: nothing
    will be written).

    Raises:
        OptionError: an input does not exist or is the output folder, or nothing was given.
        OutputError: two inputs would be written to the same place, or one onto an input.
    """
    found = Found()
    for path in dict.fromkeys(path for given in inputs for path in _expanded(str(given))):
        if path.is_dir() and not _is(path, output):
            _walk(path, output, found)
        elif not path.is_dir():
            found.sources.append(Source(path, path.name))
    once: dict[tuple[Path, str], Source] = {}
    for source in found.sources:
        once.setdefault((_real(source.path), source.relative), source)
    found.sources = list(once.values())
    if not found.sources:
        for given in inputs:
            if os.path.isdir(given) and _is(Path(given), output):  # noqa: PTH112 (nor long names)
                raise OptionError(f"{given} is the output folder too; choose another with -o")
        linked = f" ({found.linked})" if found.links else ""
        raise OptionError(
            f"there is no photo in {', '.join(map(str, inputs)) or 'nothing'}{linked}"
        )
    if output is not None:
        _refuse_collisions(found.sources, output)
    return found


def _expanded(given: str) -> list[Path]:
    if os.path.lexists(given):
        return [Path(given)]
    matches = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 (takes absolute patterns)
    if not matches:
        raise OptionError(f"{given} does not exist")
    return [Path(m) for m in matches]


def _walk(folder: Path, output: Path | None, found: Found) -> None:
    def unreadable(error: OSError) -> None:
        raise OptionError(f"cannot list {error.filename}: {error.strerror}") from error

    for base, folders, names in os.walk(folder, onerror=unreadable):
        root = Path(base)
        folders[:] = sorted(f for f in folders if not _is(root / f, output))
        linked = [root / f for f in folders if (root / f).is_symlink()]
        found.links.extend(link.relative_to(folder).as_posix() for link in linked)
        for name in sorted(names):
            path = root / name
            relative = path.relative_to(folder).as_posix()
            if imaging.may_be_photo(path):
                found.sources.append(Source(path, relative))
            else:
                found.ignored.append(relative)


def _refuse_collisions(sources: Sequence[Source], output: Path) -> None:
    targets = {_real(output / name): Path("the report") for name in RESERVED}
    originals = {_real(source.path) for source in sources}
    for source in sources:
        target = _real(output / source.relative)
        if target in originals:
            raise OutputError(
                f"{target} is one of the originals, and originals are never overwritten; "
                "choose another output folder with -o"
            )
        if target in targets:
            raise OutputError(
                f"{source.path} and {targets[target]} would both be written to {target}; "
                "protect them into different folders"
            )
        targets[target] = source.path


def _is(folder: Path, output: Path | None) -> bool:
    return output is not None and _real(folder) == _real(output)


def _real(path: Path) -> Path:
    """With links followed as far as they lead; unlike Path.resolve, circular ones are no error."""
    return Path(os.path.realpath(path))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error


def _delete(path: Path) -> None:
    if not os.path.lexists(path):  # a read-only disk would complain of what is not there
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror}") from error


def _origin(source: Source) -> str:
    """Another for a photo that lies elsewhere."""
    return hashlib.sha256(os.fsencode(_real(source.path))).hexdigest()[:12]


def _stamp(source: Source, plan: Plan | None, method: Method) -> str:
    """Changes when a photo, or what the plan says of it, does. With a budget its content counts,
    not its date: the same pixels must not be paid for twice.
    """
    try:
        facts = source.path.stat()
        state = f"{facts.st_size}-{facts.st_mtime_ns}"
        if method.cost is not None:
            state = sha256_of(source.path)
    except (OSError, WeightsError):
        return "unreadable"
    return state if plan is None else f"{state}-{plan.digest(source.relative)}"


# ------------------------------------------------------------------------------- the manifest


class _Manifest:
    """What is known of earlier runs; once opened, appends lines, each whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.close: Callable[[], object] = lambda: None
        self.ours: set[str] = set()
        """Results that this or an earlier run has written or begun to write."""
        self.done: dict[str, Done] = {}
        self.earlier: dict[str, Done] = {}
        """From before the run was started over; for the report, and not to be gone on with."""
        self.digest: str | None = None
        self.settings: Mapping[str, Any] = {}
        self.under_way: dict[str, tuple[int, int] | None] = {}
        """Photos begun by this run and not done, and what was there before (see `_identity`)."""
        there = os.path.exists(path)  # noqa: PTH110 (no error where it cannot be seen)
        for line in report.read_records(path) if there else ():
            try:
                self._read(line)
            except (KeyError, TypeError) as error:
                raise OptionError(
                    f"{path} is not the manifest of a run; move it away, or choose another folder "
                    "with -o"
                ) from error

    def _read(self, line: Mapping[str, Any]) -> None:
        if line["type"] == "run":
            self.digest = line["digest"]
            self.settings = line.get("settings", {})  # earlier versions did not say
        elif line["type"] == "begun":
            self.ours.add(line["photo"])
        elif line["type"] in ("done", "earlier"):
            item = Done(
                line["photo"], line["stamp"], line["record"], line["previews"], line.get("origin")
            )
            if line["type"] == "done":
                self.done[item.photo] = item
                if not item.record["released"]:  # what lies there now is somebody else's
                    self.ours.discard(item.photo)
            else:
                self.earlier[item.photo] = item

    def open(self, *, resume: bool, private: bool = False) -> None:
        """Go on with the earlier runs' lines, or start over; what is ours stays known. `private`:
        only the owner may read it.
        """
        if not resume:
            self.earlier = {
                item.photo: _of_earlier(item)
                for item in (self.earlier | self.done).values()
                if item.photo in self.ours and os.path.lexists(self._path.parent / item.photo)
            }
            self.done, self.digest = {}, None
            lines = [_line("begun", photo=photo) for photo in sorted(self.ours)]
            lines += [_line("earlier", **dataclasses.asdict(i)) for i in self.earlier.values()]
            if lines:  # at once: what is known of those results is nowhere else
                data = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
                report.write_whole(self._path, [data.encode("ascii")], private=private)
            else:
                _delete(self._path)
        self._writer = report.Writer(self._path, private=private)
        self.close = self._writer.close

    def record(self, photo: str) -> Mapping[str, Any] | None:
        """What is known of the earlier result of that name."""
        item = self.done.get(photo) or self.earlier.get(photo)
        return None if item is None else item.record

    def others(self, done: Sequence[Done]) -> list[Done]:
        """What earlier runs did with photos that are not among these, if the result is still there
        or there was none.
        """
        found = self.earlier | self.done
        for item in done:
            found.pop(item.photo, None)
        folder = self._path.parent
        return [
            item
            for item in found.values()
            if not item.record["released"] or os.path.lexists(folder / item.photo)
        ]

    def begin(self, photo: str) -> None:
        """Note that the result will be ours."""
        self.append("begun", photo=photo)
        self.under_way[photo] = _identity(self._path.parent / photo)

    def finish(self, item: Done) -> None:
        """Note what has become of a photo."""
        self.append("done", **dataclasses.asdict(item))
        self.done[item.photo] = item
        self.under_way.pop(item.photo, None)

    def clear(self) -> None:
        """Remove what this run released and could not note any more: nobody would know of it."""
        for photo, before in self.under_way.items():
            result = self._path.parent / photo
            if _identity(result) != before:
                with contextlib.suppress(OutputError):
                    _delete(result)

    def append(self, kind: str, **values: Any) -> None:
        self._writer.append(_line(kind, **values))


def _line(kind: str, **values: Any) -> dict[str, Any]:
    return {"schema": report.SCHEMA, "type": kind, **values}


def _identity(path: Path) -> tuple[int, int] | None:
    """Another for another file of that name; None: there is none."""
    try:
        facts = path.lstat()
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns


def _of_earlier(item: Done) -> Done:
    """Marked as made with settings that may have been others; without pictures, which may have
    been of originals.
    """
    return dataclasses.replace(item, record={**item.record, "earlier": True}, previews=())


# ------------------------------------------------------------------------------- the workers


@dataclass(frozen=True)
class _Job:
    source: Source
    target: Path
    settings: Settings
    plan: Plan | None
    originals: bool
    replace: bool
    earlier: Mapping[str, Any] | None
    """The record of the earlier result that would be replaced."""
    threads: int | None

    @property
    def unprotected(self) -> bool:
        """Whether that was released unprotected."""
        return self.earlier is not None and UNPROTECTED in str(self.earlier["message"])

    @property
    def paid(self) -> bool:
        """Whether a budget was spent on that: it could not be made again."""
        spent = self.earlier is not None and bool(self.earlier.get("charges"))
        return spent or self.settings.method.cost is not None


_models: dict[str, Models] = {}
"""Per process: networks are read once."""


def _work(job: _Job) -> Done:
    """One photo, in whatever process; what can be expected to go wrong becomes its record."""
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    device = job.settings.device
    if device not in _models:
        _models[device] = Models(device)
    relative = job.source.relative
    stamp = _stamp(job.source, job.plan, job.settings.method)
    charged: dict[str, float] = {}
    before = _identity(job.target)
    try:
        _make_folder(job.target.parent)
        result = protect_file(
            job.source.path,
            job.target,
            job.settings,
            _models[device],
            key=(relative,),
            find=None if job.plan is None else job.plan.finder(relative),
            replace=job.replace,
            charged=charged,
        )
        previews = report.encode_previews(result.report, result.previews, originals=job.originals)
    except Exception as error:  # one photo must not end a run over thousands
        expected = isinstance(error, FacedeidError)
        message = _told(error, job)
        if not expected:
            message = f"unexpected {type(error).__name__}: {message}"
        new = _identity(job.target) != before  # written, but nobody could say how it is
        ours = job.replace or new
        if ours and os.path.lexists(job.target):
            message += _removed(job, paid=job.paid and not new)
        there = job.target if ours and os.path.lexists(job.target) else None
        outcome = PhotoReport(status="error", message=message, width=0, height=0, charges=charged)
        line = report.record(relative, outcome, output=there)
        if there is not None and not new and job.earlier is not None:
            line |= {"faces": job.earlier["faces"], "earlier": True}  # how that was verified
        return Done(relative, stamp, line, (), _origin(job.source))
    released = None if result.photo is None else job.target
    line = report.record(relative, result.report, output=released)
    return Done(relative, stamp, line, previews, _origin(job.source))


def _told(error: Exception, job: _Job) -> str:
    """What an error says, without the folders of the files that it names."""
    names = {str(job.source.path): job.source.relative, str(job.target): job.source.relative}
    for path in (job.target.parent, Path(job.settings.ledger or "")):
        if path.is_absolute():
            names[str(path)] = path.name
    text = str(error)
    for known in sorted(names, key=len, reverse=True):
        text = text.replace(known, names[known])
    return text


def _removed(job: _Job, *, paid: bool) -> str:
    """Take away an earlier result of ours (none of the originals: see `collect`) that there is no
    new one for; one that a budget was spent on could not be made again. What to say of it.
    """
    said = f", and was {UNPROTECTED}" if job.unprotected else ""
    if paid:
        return f"; the result of an earlier run is still there{said}"
    try:
        job.target.unlink(missing_ok=True)
    except OSError as error:
        return f"; {job.source.relative} could not be removed: {error.strerror}{said}"
    return "; the result of an earlier run was removed"


def _as_worker(pids: "SimpleQueue[int]") -> None:
    """Ctrl-C reaches every process of a terminal; only the first one decides what to do. When that
    is killed, nobody would note what its workers release: they end too.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pids.put(os.getpid())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _results(
    jobs: Sequence[_Job],
    workers: int,
    begin: Callable[[_Job], None],
    stop: Callable[[], bool],
    stop_now: Callable[[], bool],
) -> Generator[Done, None, None]:
    """Finished photos, in the order in which they finish; after `stop`, those under way, which
    `stop_now` ends too if they are with workers.
    """
    if workers <= 1:
        for job in jobs:
            if stop():
                return
            begin(job)
            yield _work(job)
        return
    context = multiprocessing.get_context("spawn")
    pids = context.SimpleQueue()
    with ProcessPoolExecutor(workers, context, _as_worker, (pids,)) as pool:
        waiting = list(reversed(jobs))
        running: set[Future[Done]] = set()
        try:
            while running or (waiting and not stop()):
                while waiting and len(running) < workers and not stop():
                    job = waiting.pop()
                    begin(job)
                    running.add(pool.submit(_work, job))
                finished, running = wait(running, PATIENCE, return_when=FIRST_COMPLETED)
                for future in sorted(finished, key=_died):
                    yield future.result()
                if running and stop_now() and not pids.empty():
                    yield from _ended(pool, pids, running)
                    _sweep({job.target.parent for job in jobs})
                    return
        except BrokenProcessPool:
            pool.shutdown(wait=True, cancel_futures=True)
            _sweep({job.target.parent for job in jobs})
            raise FacedeidError(
                "a worker process died; what is done is kept. If memory ran out, go on with "
                "--resume and fewer --jobs. In a script, call protect_folder with jobs > 1 below "
                "`if __name__ == '__main__':`, because workers import the script"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _died(future: Future[Done]) -> bool:
    """Whether its worker ended before the photo did."""
    return future.exception() is not None


def _ended(
    pool: ProcessPoolExecutor, pids: "SimpleQueue[int]", running: set[Future[Done]]
) -> Iterator[Done]:
    """Kill the workers; what they had finished.

    All of them, those that have yet to start, too: a pool whose work is just finished waits for
    each to end, and one that is killed while it waits for work keeps the lock the others wait for.
    """
    ending = threading.Thread(target=pool.shutdown, daemon=True)
    ending.start()
    while ending.is_alive():
        while not pids.empty():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids.get(), signal.SIGTERM)
        ending.join(PATIENCE)
    for future in running:
        if not _died(future):
            yield future.result()


def _sweep(folders: Iterable[Path]) -> None:
    """Remove what killed processes left there unverified."""
    for folder in folders:
        for leftover in folder.glob(f"{imaging.TEMPORARY_PREFIX}*.tmp"):
            _delete(leftover)


class _Interrupts:
    """The first Ctrl-C asks a run to end after the photos under way, the second ends it at once."""

    def __init__(self, workers: int) -> None:
        self.asked = self.asked_twice = False
        self._workers = workers
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, *_: object) -> None:
        if self.asked_twice or (self.asked and self._workers <= 1):
            raise KeyboardInterrupt
        if self.asked:
            self.asked_twice = True
            return
        self.asked = True
        what = "photo" if self._workers <= 1 else "photos"
        with contextlib.suppress(RuntimeError, OSError, ValueError):  # a signal comes at any time
            print(f"finishing the {what} under way; Ctrl-C again to stop now", file=sys.stderr)


# ------------------------------------------------------------------------------- the run


def protect_folder(
    inputs: str | Path | Sequence[str | Path],
    output: str | Path = "facedeid-out",
    method: str | Method = METHOD,
    *,
    jobs: int = 1,
    draws: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    plan: Plan | None = None,
    report_originals: bool = False,
    started: Callable[[int, int], None] | None = None,
    progress: Callable[[Done], None] | None = None,
    **options: Any,
) -> Run:
    """Protect photos and folders of photos into an output folder, and write the report.

    Args:
        inputs: files, folders (recursively), glob patterns.
        output: where results go, below it the paths as in the input folders.
        method: a name, a name with options (`pixelate:cells=8`) or a `Method`.
        jobs: worker processes.
        draws: releases of each photo, in the folders draw-1, draw-2, ... of the output, and side
            by side in the folder contact-sheets.
        resume: go on with an interrupted run with the same settings.
        overwrite: start over, and replace the results of earlier runs (and nothing else). Those
            that this run does not replace stay, and stay in the report.
        plan: boxes that a person has corrected, in place of the detector; it says which faces are
            protected, so `keep` and `only` are refused (see `selected`).
        report_originals: put crops of the original faces into the report. They identify people.
        started: called with the number of photos and of those already done.
        progress: called with each finished photo.
        options: further fields of `Settings`.

    Returns:
        What happened; `interrupted` after Ctrl-C, with the report of what was done.

    Raises:
        OptionError: before anything is written, an option or a plan cannot be followed.
        OutputError: before anything is written, something would be overwritten.
        WeightsError: before anything is written, weights are not here.
        PrivacyError: before anything is written, OpenDP is not installed, or the ledger is none.
        FacedeidError: a worker process died.
    """
    settings = Settings.of(method, options)
    check_together(
        settings,
        jobs=jobs,
        draws=draws,
        resume=resume,
        overwrite=overwrite,
        planned=plan is not None,
    )
    if plan is not None and (settings.keep or settings.only):
        raise OptionError(
            'the plan says which faces are protected: edit "protect" in it, and leave out --keep '
            "and --only"
        )
    if settings.method.options().get("album"):
        _models.pop(settings.device, None)  # it remembers the people of an earlier run
    given = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    folder = Path(output)
    found = collect(given, folder)
    sources = found.sources
    head = _head(settings, found)
    said = _said(head, planned=plan is not None)
    sheets: list[str] = []
    if draws > 1:
        sheets = [_sheet(source.relative) for source in sources]
        sources = _drawn(sources, draws, folder)
    digest = _digest(settings, planned=plan is not None)
    stamp = functools.partial(_stamp, plan=plan, method=settings.method)
    manifest = _opened(
        folder,
        sources,
        sheets,
        said,
        digest,
        stamp,
        started=head["started"],
        resume=resume,
        overwrite=overwrite,
        private=report_originals,
    )
    run = Run(folder, len(sources), ignored=found.ignored, links=found.links)
    try:
        todo = []
        for source in sources:
            earlier = manifest.done.get(source.relative)
            if earlier is not None and _is_current(
                earlier, stamp(source), folder / source.relative
            ):
                run.done.append(earlier)
            else:
                todo.append(source)
        run.resumed = len(run.done)
        if started is not None:
            started(len(sources), run.resumed)
        workers = min(jobs, len(todo))
        work = [
            _Job(
                source=source,
                target=folder / source.relative,
                settings=settings,
                plan=plan,
                originals=report_originals,
                replace=source.relative in manifest.ours,
                earlier=manifest.record(source.relative),
                threads=max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None,
            )
            for source in todo
        ]
        with (
            _Interrupts(workers) as asked,
            contextlib.closing(
                _results(
                    work,
                    workers,
                    functools.partial(_begin, manifest),
                    lambda: asked.asked,
                    lambda: asked.asked_twice,
                )
            ) as results,
        ):
            for item in results:
                manifest.finish(item)
                run.done.append(item)
                if progress is not None:
                    progress(item)
        run.interrupted = asked.asked and len(run.done) < run.total
    except BaseException as error:
        run.interrupted = True
        if not isinstance(error, KeyboardInterrupt):
            raise
    finally:
        manifest.close()
        if settings.method.cost is None:  # what a budget was spent on could not be made again
            manifest.clear()
        run.earlier = manifest.others(run.done)
        _write_reports(run, head, originals=report_originals)
    if draws > 1:
        _write_sheets(run, draws)
    return run


def check_together(
    settings: Settings, *, jobs: int, draws: int, resume: bool, overwrite: bool, planned: bool
) -> None:
    """Whether a run can be as asked, `planned` being one that follows a plan.

    Raises:
        OptionError: a number is too small, or wishes exclude each other.
    """
    if jobs < 1:
        raise OptionError(f"--jobs must be at least 1, got {jobs}")
    if not 1 <= draws <= MOST_DRAWS or (draws > 1 and planned):
        raise OptionError(f"--draws must be 1 to {MOST_DRAWS}, and exactly 1 with a plan")
    if resume and overwrite:
        raise OptionError("--resume goes on and --overwrite starts over: give one of them")
    if (jobs > 1 or resume) and settings.method.options().get("album"):
        raise OptionError("an album is remembered by one process: leave out --jobs and --resume")


def _drawn(sources: Sequence[Source], draws: int, output: Path) -> list[Source]:
    """Each photo so many times."""
    drawn = [
        Source(source.path, f"{_draw(number)}/{source.relative}")
        for source in sources
        for number in range(1, draws + 1)
    ]
    sheets = [Source(source.path, _sheet(source.relative)) for source in sources]
    _refuse_collisions([*drawn, *sheets], output)
    return drawn


def _draw(number: int) -> str:
    return f"draw-{number}"


def _sheet(name: str) -> str:
    base, last = os.path.split(name)
    if len(os.fsencode(last)) > LONGEST_NAME - 4:
        mark = hashlib.sha256(os.fsencode(last)).hexdigest()[:8]
        last = f"{os.fsencode(last)[:200].decode(errors='ignore')}-{mark}"
    return "/".join(part for part in (SHEETS, base, f"{last}.jpg") if part)


def _write_sheets(run: Run, draws: int) -> None:
    """Put the released draws of each photo side by side; of none, an earlier sheet goes."""
    released = {item.photo for item in run.done if item.record["released"]}
    for name in sorted({item.photo.partition("/")[2] for item in run.done}):
        photos = [f"{_draw(number)}/{name}" for number in range(1, draws + 1)]
        shown, sheet = [run.output / p for p in photos if p in released], run.output / _sheet(name)
        if shown:
            _make_folder(sheet.parent)
            report.contact_sheet(shown, sheet)
        else:
            _delete(sheet)


def _begin(manifest: _Manifest, job: _Job) -> None:
    """Note that the result will be ours; what somebody else has put there is not."""
    if job.replace or not os.path.lexists(job.target):
        manifest.begin(job.source.relative)


def _head(settings: Settings, found: Found) -> dict[str, Any]:
    """First line of the report, once it is clear that the settings can be followed."""
    models = Models(settings.device)
    settings.method.ready(models)
    if settings.method.cost is not None:
        Ledger(None if settings.ledger is None else Path(settings.ledger)).general_limit()
    recognizers = models.recognizers(settings.recognizers)
    for recognizer in recognizers:
        recognizer.threshold(settings.require)
    _selected(settings, recognizers, single=len(found.sources) == 1)
    return report.run_record(settings, recognizers, ignored=found.ignored, links=found.links)


def _said(head: Mapping[str, Any], *, planned: bool) -> dict[str, Any]:
    """The settings as the report has them."""
    plan = "followed" if planned else "none"
    return {"method": head["method"]["repr"], **head["settings"], "plan": plan}


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Which settings are others than before, in words."""
    names = [name for name in before if name in now and before[name] != now[name]]
    said = [f"{name} was {before[name]!r} and is {now[name]!r}" for name in names]
    return "; ".join(said) or "a file that they name may have changed"


def selected(
    settings: Settings, *, single: bool, warn: Callable[[str], object] | None = None
) -> Choose:
    """The faces that the settings mean to protect, for writing a plan (see `plan.planned`).

    Where `only` means none of a photo's faces, all are protected: a plan cannot say that the photo
    is not to be released.

    Args:
        settings: with `keep` or `only`, or neither: all faces.
        single: whether there is one photo only.
        warn: called with what to say of numbers and regions that name no face.

    Raises:
        OptionError: numbers or regions for several photos, or what cannot be understood.
        WeightsError: weights are not here.
    """
    named = settings.keep or settings.only
    recognizers = Models(settings.device).recognizers(settings.recognizers) if named else []
    selection = _selected(settings, recognizers, single=single)

    def choose(rgb: NDArray[np.uint8], faces: Sequence[Face]) -> Sequence[bool]:
        chosen = selection.choose(rgb, faces)
        if warn is not None:
            for text in selection.unused(faces):
                warn(text)
        return chosen if any(chosen) or not selection.only else [True] * len(faces)

    return choose


def _selected(settings: Settings, recognizers: Sequence[Recognizer], *, single: bool) -> Selection:
    selection = settings.selection(recognizers)
    if selection.of_one_photo and not single:
        raise OptionError(
            "a face's number or region means something in one photo only: give a single photo, "
            "select by a reference photo of the person, or correct a plan (--plan)"
        )
    return selection


def _digest(settings: Settings, *, planned: bool) -> str:
    """Changes when the settings, or a file that they name, do; a plan's boxes are in `_stamp`."""
    digest = hashlib.sha256(repr(settings).encode() + b" with a plan" * planned)
    judges = [text.removeprefix("onnx:").partition("?")[0] for text in settings.recognizers or ()]
    for text in (*settings.keep, *settings.only, settings.detector, *judges):
        if os.path.isfile(text):  # noqa: PTH113 (no error for names that are too long)
            digest.update(Path(text).read_bytes())
    return digest.hexdigest()


def _opened(
    folder: Path,
    sources: Sequence[Source],
    sheets: Sequence[str],
    said: Mapping[str, Any],
    digest: str,
    stamp: Callable[[Source], str],
    *,
    started: str,
    resume: bool,
    overwrite: bool,
    private: bool,
) -> _Manifest:
    """The manifest, once it is clear that nothing will be lost."""
    path = folder / MANIFEST
    if not resume and not overwrite:
        names = (*RESERVED, *(source.relative for source in sources), *sheets)
        there = [name for name in names if os.path.lexists(folder / name)]
        if there:
            raise OutputError(
                f"there are results already, {folder / there[0]} for one; go on with --resume, "
                "replace them with --overwrite, or choose another folder with -o"
            )
    _make_folder(folder)
    if os.path.exists(path):  # noqa: PTH110 (no error where it cannot be seen)
        report.Writer(path).close()  # nobody else is at work here
    manifest = _Manifest(path)
    results = {*manifest.ours, *(source.relative for source in sources)}
    _sweep({folder, *((folder / name).parent for name in results)})
    if resume and manifest.digest not in (None, digest):
        raise OptionError(
            "--resume: the interrupted run had other settings "
            f"({_differing(manifest.settings, said)}); repeat them, or start over with --overwrite"
        )
    for source in sources if resume else ():
        known = manifest.done.get(source.relative)
        if known is None or known.origin in (None, _origin(source)):
            continue
        if known.record["released"] and known.stamp != stamp(source):
            raise OptionError(
                f"--resume: {folder / source.relative} is the result of another photo of that "
                f"name, not of {source.path}; choose another folder with -o, or replace it with "
                "--overwrite"
            )
    for sheet in sheets:
        if sheet not in manifest.ours and os.path.lexists(folder / sheet):
            raise OutputError(
                f"{folder / sheet} is not of an earlier run, and would be replaced by the draws "
                "side by side; move it away, or choose another folder with -o"
            )
    try:
        manifest.open(resume=resume, private=private)
        for name in (REPORT_HTML, REPORT_JSONL):
            _delete(folder / name)  # if this run is killed, it says too little
        if manifest.digest is None:
            manifest.append("run", digest=digest, started=started, settings=said)
        for sheet in sheets:
            if sheet not in manifest.ours:
                manifest.append("begun", photo=sheet)
    except BaseException:
        manifest.close()
        raise
    return manifest


def _is_current(earlier: Done, stamp: str, target: Path) -> bool:
    """Whether the earlier run's result still stands."""
    if earlier.stamp != stamp or earlier.status == "error":
        return False
    return not earlier.record["released"] or target.is_file()


def _write_reports(run: Run, head: Mapping[str, Any], *, originals: bool) -> None:
    order = sorted([*run.done, *run.earlier], key=lambda item: item.photo)
    records = [head, *(item.record for item in order)]
    report.write_jsonl(run.output / REPORT_JSONL, records, interrupted=run.interrupted)
    report.write_html(
        run.output / REPORT_HTML,
        records,
        {item.photo: item.previews for item in order},
        originals=originals,
        interrupted=run.interrupted,
    )
