"""A recogniser that is taught what the method does: a new head on frozen embeddings.

The attacker de-identifies photos of people he knows, learns a linear map from what a recogniser
sees in them to its embedding of the untouched photos, and matches with untouched galleries. The
people he learns from, those he chooses and fits the threshold on, and those tested are disjoint.
"""

from facedeid.evaluation.attackers.bench import Bench, Trial
from facedeid.evaluation.attackers.heads import Head, chosen, heads
from facedeid.evaluation.attackers.results import AttackResult, refused, rows
from facedeid.evaluation.attackers.scoring import Scores, cosine_distance, scored
from facedeid.models import Recognizer

__all__ = ["retrained"]

LEAST_PHOTOS = 20
"""Of which a head can be learned at all."""


def retrained(bench: Bench) -> tuple[AttackResult, ...]:
    """De-identified probe through a learned head, against the untouched gallery."""
    trials, short = bench.trials()
    found: list[AttackResult] = []
    for judge in bench.judges():
        found += (
            refused(bench, "retrained", judge.name, short) if short else _one(bench, judge, trials)
        )
    return tuple(found)


def _one(bench: Bench, judge: Recognizer, trials: tuple[Trial, Trial]) -> tuple[AttackResult, ...]:
    bench.progress(f"retrained: {judge.name}")
    keys, people = bench.training()
    if len(keys) < LEAST_PHOTOS:
        reason = f"only {len(keys)} photos to learn from, {LEAST_PHOTOS} are needed"
        return refused(bench, "retrained", judge.name, reason)
    x, valid = bench.released(judge, keys)
    if int(valid.sum()) < LEAST_PHOTOS:
        reason = f"a face is found in only {int(valid.sum())} of {len(keys)} photos to learn from"
        return refused(bench, "retrained", judge.name, reason)
    y = bench.untouched(judge, keys)
    seen = [person for person, ok in zip(people, valid.tolist(), strict=True) if ok]
    candidates = [None, *heads(x[valid], y[valid], seen, alike=True)]
    tested, fitting = trials
    best = chosen(candidates, lambda head: _scores(bench, judge, fitting, head))
    facts = {
        "trained_on_photos": len(seen),
        "trained_on_people": len(set(seen)),
        "chosen": "embeddings as they are" if best is None else best.name,
    }
    attacked = (_scores(bench, judge, tested, best), _scores(bench, judge, fitting, best))
    return rows(bench, "retrained", judge, trials, attacked, variant="linear head", facts=facts)


def _scores(bench: Bench, judge: Recognizer, trial: Trial, head: Head | None) -> Scores:
    if head is None:
        return bench.ordinary(judge, trial)
    probes, valid = bench.released(judge, trial.probes)
    gallery = head.galleries(bench.untouched(judge, trial.gallery))
    return scored(cosine_distance, gallery, head.probes(probes), trial.people, valid)
