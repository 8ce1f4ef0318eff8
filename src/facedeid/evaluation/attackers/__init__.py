"""Attackers that adapt: what a method is worth once somebody studies it.

Each takes a `Bench` and gives rows: a figure with its interval and n, and beside it the same of
the ordinary attacker (untouched gallery, released probe, the recogniser as it is) and of untouched
photos. Whom an attacker learns from and who is tested are different people.
"""

from types import MappingProxyType

from facedeid.evaluation.attackers.attributes import HasAttributes, attributes
from facedeid.evaluation.attackers.averaging import averaging
from facedeid.evaluation.attackers.bench import Bench, Trial, must_know, part_of
from facedeid.evaluation.attackers.finetuned import finetuned
from facedeid.evaluation.attackers.inverter import inverter
from facedeid.evaluation.attackers.parrot import parrot
from facedeid.evaluation.attackers.results import Attack, AttackResult
from facedeid.evaluation.attackers.retrained import retrained
from facedeid.evaluation.attackers.scoring import MEASURES

__all__ = [
    "ATTACKERS",
    "MEASURES",
    "Attack",
    "AttackResult",
    "Bench",
    "HasAttributes",
    "Trial",
    "must_know",
    "part_of",
]

ATTACKERS: MappingProxyType[str, Attack] = MappingProxyType(
    {
        "parrot": parrot,
        "retrained": retrained,
        "finetuned": finetuned,
        "averaging": averaging,
        "inverter": inverter,
        "attributes": attributes,
    }
)
"""Name -> attack."""
