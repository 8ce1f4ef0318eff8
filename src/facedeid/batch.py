"""Many photos: which ones, where they go, several at a time, and going on after an interruption.

The manifest (`facedeid-run.jsonl` in the output folder) gets one line before a photo is begun and
one when it is done; the report is made from it. Whatever happens in between, a photo is either
done, with its line, or begun again by `resume`.
"""

import glob
import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from facedeid import imaging, report
from facedeid.errors import FacedeidError, OptionError, OutputError, PhotoError
from facedeid.methods import Method, parse
from facedeid.models import Models
from facedeid.pipeline import PhotoReport, Settings, protect_file
from facedeid.plan import Plan

__all__ = ["MANIFEST", "Done", "Run", "Source", "collect", "protect_folder"]

MANIFEST = "facedeid-run.jsonl"
"""Name of the manifest in the output folder."""
REPORT_HTML = "facedeid-report.html"
REPORT_JSONL = "facedeid-report.jsonl"


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
    interrupted: bool = False
    resumed: int = 0
    """Photos that an earlier run had finished."""

    @property
    def counts(self) -> Counter[str]:
        """Photos by status."""
        return Counter(item.status for item in self.done)

    @property
    def report_path(self) -> Path:
        """The page that shows what happened to every face."""
        return self.output / REPORT_HTML


# ------------------------------------------------------------------------------- what goes in


def collect(inputs: Sequence[str | Path], output: Path) -> tuple[list[Source], list[str]]:
    """Photos among files, folders (recursively) and glob patterns, and files that are none.

    A file given by name keeps its name in the output folder, one found in a folder its path below
    that folder. Symbolic links to folders are not followed; the output folder is left out.

    Raises:
        OptionError: an input does not exist, or nothing was given.
        OutputError: two inputs would be written to the same place, or one onto an input.
    """
    sources: list[Source] = []
    ignored: list[str] = []
    for given in inputs:
        for path in _expanded(str(given)):
            if path.is_dir():
                _walk(path, output, sources, ignored)
            else:
                sources.append(Source(path, path.name))
    if not sources:
        raise OptionError(f"there is no photo in {', '.join(map(str, inputs)) or 'nothing'}")
    _refuse_collisions(sources, output)
    return sources, ignored


def _expanded(given: str) -> list[Path]:
    if os.path.lexists(given):
        return [Path(given)]
    matches = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 (takes absolute patterns)
    if not matches:
        raise OptionError(f"{given} does not exist")
    return [Path(m) for m in matches]


def _walk(folder: Path, output: Path, sources: list[Source], ignored: list[str]) -> None:
    def unreadable(error: OSError) -> None:
        raise OptionError(f"cannot list {error.filename}: {error.strerror}") from error

    for base, folders, names in os.walk(folder, onerror=unreadable):
        root = Path(base)
        folders[:] = sorted(f for f in folders if _real(root / f) != _real(output))
        links = [root / f for f in folders if (root / f).is_symlink()]
        ignored.extend(link.relative_to(folder).as_posix() for link in links)
        for name in sorted(names):
            path = root / name
            relative = path.relative_to(folder).as_posix()
            if not name.startswith("._") and imaging.may_be_photo(path):
                sources.append(Source(path, relative))
            else:
                ignored.append(relative)


def _refuse_collisions(sources: Sequence[Source], output: Path) -> None:
    targets: dict[Path, Path] = {}
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


def _real(path: Path) -> Path:
    """With links followed as far as they lead; unlike Path.resolve, circular ones are no error."""
    return Path(os.path.realpath(path))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error


def _stamp(path: Path) -> str:
    try:
        facts = path.stat()
    except OSError:
        return "unreadable"
    return f"{facts.st_size}-{facts.st_mtime_ns}"


# ------------------------------------------------------------------------------- the manifest


class _Manifest:
    """Appends lines, each whole or not at all."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.begun: set[str] = set()
        self.done: dict[str, Done] = {}
        self.run: Mapping[str, Any] = {}
        if not resume:
            path.unlink(missing_ok=True)
        for line in report.read_records(path) if path.exists() else ():
            if line["type"] == "run":
                self.run = line
            elif line["type"] == "begun":
                self.begun.add(line["photo"])
            elif line["type"] == "done":
                item = Done(line["photo"], line["stamp"], line["record"], line["previews"])
                self.done[item.photo] = item
        self._writer = report.Writer(path)
        self.close = self._writer.close

    def append(self, kind: str, **values: Any) -> None:
        self._writer.append({"schema": report.SCHEMA, "type": kind, **values})


# ------------------------------------------------------------------------------- the workers


@dataclass(frozen=True)
class _Job:
    source: Source
    target: Path
    settings: Settings
    plan: Plan | None
    originals: bool
    replace: bool
    threads: int | None


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
    stamp = _stamp(job.source.path)
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
        )
    except (PhotoError, OutputError) as error:
        outcome = PhotoReport(status="error", message=str(error), width=0, height=0)
        return Done(relative, stamp, report.record(relative, outcome, output=None), ())
    released = relative if result.photo is not None else None
    return Done(
        relative,
        stamp,
        report.record(relative, result.report, output=released),
        report.encode_previews(result.report, result.previews, originals=job.originals),
    )


def _leave_interrupts_alone() -> None:
    """Ctrl-C reaches every process of a terminal; only the first one decides what to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _results(
    jobs: Sequence[_Job], workers: int, begin: Callable[[str], None]
) -> Generator[Done, None, None]:
    """Finished photos, in the order in which they finish."""
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            begin(job.source.relative)
            yield _work(job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_leave_interrupts_alone) as pool:
        waiting = list(reversed(jobs))
        running: set[Future[Done]] = set()
        try:
            while waiting or running:
                while waiting and len(running) < 2 * workers:
                    job = waiting.pop()
                    begin(job.source.relative)
                    running.add(pool.submit(_work, job))
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        except BrokenProcessPool:
            raise FacedeidError(
                "a worker process died, probably for lack of memory; what is done is kept: go on "
                "with --resume and fewer --jobs"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


# ------------------------------------------------------------------------------- the run


def protect_folder(
    inputs: str | Path | Sequence[str | Path],
    output: str | Path = "facedeid-out",
    method: str | Method = "pixelate",
    *,
    jobs: int = 1,
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
        resume: go on with an interrupted run with the same settings.
        overwrite: replace results that are there already (never originals).
        plan: boxes that a person has corrected, in place of the detector.
        report_originals: put crops of the original faces into the report. They identify people.
        started: called with the number of photos and of those already done.
        progress: called with each finished photo.
        options: further fields of `Settings`.

    Returns:
        What happened; `interrupted` after Ctrl-C, with the report of what was done.

    Raises:
        OptionError, OutputError: before anything is written.
    """
    unknown = options.keys() - Settings.__dataclass_fields__.keys()
    if unknown:
        raise OptionError(f"protect_folder has no option {', '.join(sorted(unknown))}")
    if jobs < 1:
        raise OptionError(f"--jobs must be at least 1, got {jobs}")
    settings = Settings(method=parse(method) if isinstance(method, str) else method, **options)
    given = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    folder = Path(output)
    sources, ignored = collect(given, folder)
    head = _head(settings)
    manifest = _opened(folder, sources, head, resume=resume, overwrite=overwrite)
    run = Run(folder, len(sources), ignored=ignored)
    try:
        todo = []
        for source in sources:
            earlier = manifest.done.get(source.relative)
            if earlier is not None and _is_current(earlier, source, folder):
                run.done.append(earlier)
            else:
                todo.append(source)
        run.resumed = len(run.done)
        if started is not None:
            started(len(sources), run.resumed)
        work = [
            _Job(
                source=source,
                target=folder / source.relative,
                settings=settings,
                plan=plan,
                originals=report_originals,
                replace=overwrite or source.relative in manifest.begun,
                threads=max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None,
            )
            for source in todo
        ]
        results = _results(work, jobs, lambda photo: manifest.append("begun", photo=photo))
        try:
            for item in results:
                manifest.append(
                    "done",
                    photo=item.photo,
                    stamp=item.stamp,
                    record=item.record,
                    previews=list(item.previews),
                )
                run.done.append(item)
                if progress is not None:
                    progress(item)
        except KeyboardInterrupt:
            run.interrupted = True
            results.close()
    finally:
        manifest.close()
    _write_reports(run, head, originals=report_originals)
    return run


def _head(settings: Settings) -> dict[str, Any]:
    """First line of the manifest and the report."""
    recognizers = Models(settings.device).recognizers(settings.recognizers)
    for recognizer in recognizers:
        recognizer.threshold(settings.require)
    return report.run_record(settings, recognizers)


def _opened(
    folder: Path,
    sources: Sequence[Source],
    head: Mapping[str, Any],
    *,
    resume: bool,
    overwrite: bool,
) -> _Manifest:
    """The manifest, once it is clear that nothing will be lost."""
    path = folder / MANIFEST
    if not resume and not overwrite:
        there = [s.relative for s in sources if os.path.lexists(folder / s.relative)]
        if there:
            raise OutputError(
                f"{len(there)} results are there already, {folder / there[0]} for one; go on "
                "with --resume, replace them with --overwrite, or choose another folder with -o"
            )
    _make_folder(folder)
    if resume:  # what a killed run left half-written or unverified
        for leftover in folder.rglob(f"{imaging.TEMPORARY_PREFIX}*.tmp"):
            leftover.unlink(missing_ok=True)
    manifest = _Manifest(path, resume=resume)
    same = {key: value for key, value in head.items() if key != "started"}
    if manifest.run and {k: manifest.run.get(k) for k in same} != json.loads(json.dumps(same)):
        manifest.close()
        raise OptionError(
            "--resume: the interrupted run had other settings (see the first line of "
            f"{path}); repeat them, or start over with --overwrite"
        )
    if not manifest.run:
        manifest.append("run", **{k: v for k, v in head.items() if k not in ("schema", "type")})
    return manifest


def _is_current(earlier: Done, source: Source, folder: Path) -> bool:
    """Whether the earlier run's result still stands."""
    if earlier.stamp != _stamp(source.path) or earlier.status == "error":
        return False
    return not earlier.record["released"] or (folder / source.relative).is_file()


def _write_reports(run: Run, head: Mapping[str, Any], *, originals: bool) -> None:
    order = sorted(run.done, key=lambda item: item.photo)
    records = [head, *(item.record for item in order)]
    report.write_jsonl(run.output / REPORT_JSONL, records, interrupted=run.interrupted)
    report.write_html(
        run.output / REPORT_HTML,
        records,
        {item.photo: item.previews for item in order},
        originals=originals,
        interrupted=run.interrupted,
    )
