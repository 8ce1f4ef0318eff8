"""The parrot: whoever knows the method de-identifies the gallery as well.

Newton, Sweeney & Malin 2005 ("parrot recognition"): a method may hide a face from a recogniser
that knows untouched photos and still map every person to a pattern of its own. The attacker
de-identifies his own, named photos with the same method (another draw, where it is random) and
compares like with like, at a threshold chosen on such pairs of other people.
"""

from facedeid.evaluation.attackers.bench import Bench, Trial
from facedeid.evaluation.attackers.results import AttackResult, refused, rows
from facedeid.evaluation.attackers.scoring import Scores, scored
from facedeid.models import Recognizer

__all__ = ["parrot"]

OWN_DRAW = 1
"""The attacker does not know the random numbers with which the photo was published."""


def parrot(bench: Bench) -> tuple[AttackResult, ...]:
    """Gallery and probe both de-identified."""
    trials, short = bench.trials()
    found: list[AttackResult] = []
    for judge in bench.judges():
        if short:
            found += refused(bench, "parrot", judge.name, short)
            continue
        bench.progress(f"parrot: {judge.name}")
        tested, fitting = (_scores(bench, judge, trial) for trial in trials)
        found += rows(bench, "parrot", judge, trials, (tested, fitting))
    return tuple(found)


def _scores(bench: Bench, judge: Recognizer, trial: Trial) -> Scores:
    own = OWN_DRAW if bench.releases.method.varies else 0  # the same picture, made already
    gallery, known = bench.released(judge, trial.gallery, draw=own)
    probes, valid = bench.released(judge, trial.probes)
    return scored(judge.distance, gallery, probes, trial.people, valid, known)
