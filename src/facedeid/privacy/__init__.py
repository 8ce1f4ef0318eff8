"""Mechanisms that state their own cost, what they assume, and a ledger of what was spent."""

from facedeid.privacy.ledger import EVERYBODY, Account, Ledger, ledger_path
from facedeid.privacy.mechanism import Laplace, SeededLaplace, Sensitivity, bounded, empirical

__all__ = [
    "EVERYBODY",
    "Account",
    "Laplace",
    "Ledger",
    "SeededLaplace",
    "Sensitivity",
    "bounded",
    "empirical",
    "ledger_path",
]
