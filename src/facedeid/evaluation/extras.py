"""What is measured on request: image operations after the release, and attackers that adapt."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from facedeid.errors import PhotoError
from facedeid.evaluation import attackers
from facedeid.evaluation.attackers import ATTACKERS, AttackResult, Bench
from facedeid.evaluation.attackers.inverter import TEACHER
from facedeid.evaluation.datasets import Dataset
from facedeid.evaluation.embedding import Reporter
from facedeid.evaluation.fingerprints import code, digest, recognizer_digest
from facedeid.evaluation.intervals import Bootstrap
from facedeid.evaluation.judges import Judge
from facedeid.evaluation.protocols import ALIGNED
from facedeid.evaluation.releases import Altered, Releases
from facedeid.evaluation.results import Hardened
from facedeid.evaluation.subjects import Subjects
from facedeid.evaluation.views import Views
from facedeid.models import Models
from facedeid.report import write_whole

__all__ = ["attack", "harden"]

PHOTOS = 2
"""Photos that an attacker learns from, per genuine pair that is tested: 600 for 300."""


def harden(
    views: Views,
    operation: str,
    judges: Sequence[Judge],
    subjects: Subjects,
    *,
    limit: int,
    seed: int,
    report: Reporter,
) -> tuple[Hardened, ...]:
    """Releases after an operation, a row per recogniser and alignment.

    Compared with the partner of each pair, or with the original where nobody is known, at the
    headline threshold.
    """
    probes = subjects.probes[:limit]
    against = [pair.first for pair in subjects.pairs[:limit]] or list(probes)
    altered = Altered(views, operation)
    recognizers = [each.recognizer for each in judges]
    altered.prepare(probes)
    altered.look(probes, progress=report(f"{altered.label}: finding faces again"))
    altered.embed(recognizers, probes, progress=report(f"{altered.label}: embedding"))
    bootstrap = Bootstrap(subjects.people[:limit], seed)
    detected = float(altered.look(probes).mean())
    rows = []
    for judge in judges:
        other = views.originals.embeddings(judge.recognizer, against)
        threshold = judge.thresholds[judge.headline]
        for aligned in ALIGNED:
            rejected = []
            for each in (altered, views):
                found, valid = each.embeddings(judge.recognizer, probes, aligned)
                matched = (judge.recognizer.distance(other, found) < threshold) & valid
                rejected.append(bootstrap.share(~matched.numpy()))
            row = Hardened(
                method=views.label,
                operation=operation,
                recognizer=judge.name,
                white_box=views.white_box(judge.recognizer),
                aligned=aligned,
                rejected=rejected[0],
                before=rejected[1],
                detected=detected,
            )
            rows.append(row)
    return tuple(rows)


# attackers ----------------------------------------------------------------------------------


def attack(
    name: str,
    releases: Releases,
    models: Models,
    recognizers: Sequence[str],
    *,
    limit: int,
    seed: int,
    report: Reporter,
) -> tuple[AttackResult, ...]:
    """One attacker against one method; what it found is kept beside the releases.

    Args:
        name: of `attackers.ATTACKERS`.
        releases: of the method.
        models: where recognisers come from.
        recognizers: their names, as a user gives them.
        limit: genuine pairs that are tested, at most.
        seed: of everything that is drawn.
        report: told about progress.
    """
    judges = [
        (each.name, recognizer_digest(each), sorted(each.spec.thresholds.items()))
        for each in models.recognizers(recognizers)
    ]
    teacher = [recognizer_digest(models.recognizer(TEACHER))] if name == "inverter" else []
    parts = (_photos(releases.dataset), *teacher, *_attacking())
    known = digest(name, limit, PHOTOS, seed, judges, *parts)
    path = releases.folder / f"attack-{name}-{known}.json"
    held = _kept(path)
    if held is not None:
        return held
    bench = Bench(
        dataset=releases.dataset,
        originals=releases.originals,
        releases=releases,
        models=models,
        recognizers=tuple(recognizers),
        limit=limit,
        photos=PHOTOS * limit,
        seed=seed,
        progress=lambda text: report(f"{releases.label}: {text}")(0, 0),
    )
    report(f"{releases.label}: attacker {name}")(0, 0)
    found = ATTACKERS[name](bench)
    releases.originals.faces.flush()
    releases.faces.flush()
    write_whole(path, [json.dumps([row.record() for row in found])], private=True)
    return found


def _photos(dataset: Dataset) -> str:
    """Of all photos by name and content, and how they are paired."""
    pairs = [(pair.first, pair.second) for pair in dataset.pairs]
    return digest([(key, _stamp(dataset, key)) for key in dataset.keys], pairs)


def _stamp(dataset: Dataset, key: str) -> str:
    try:
        return dataset.stamp(key)
    except PhotoError:
        return "cannot be read"


def _attacking() -> list[str]:
    """The code of the attackers."""
    ours = [name for name in sys.modules if name.startswith(f"{attackers.__name__}.")]
    return [code(sys.modules[name]) for name in sorted(ours)]


def _kept(path: Path) -> tuple[AttackResult, ...] | None:
    try:
        return tuple(AttackResult(**row) for row in json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
