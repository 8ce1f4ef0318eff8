"""A module imports only rooms above it in this list, or its own package."""

import ast
from pathlib import Path

import pytest

import facedeid

ROOMS = [
    "errors",
    "defaults",
    "landmarks",
    "imaging",
    "random",
    "weights",
    "checkpoints",
    "nets",
    "losses",
    "optimize",
    "privacy",
    "models",
    "faces",
    "registration",
    "inversion",
    "methods",
    "verification",
    "selection",
    "spending",
    "pipeline",
    "plan",
    "report",
    "evaluation",
    "training",
    "batch",
    "_cli_console",
    "demo",
    "_cli_models",
    "_cli_evaluate",
    "_cli_train",
    "_cli_budget",
    "_cli_sensitivity",
    "_cli_invert",
    "cli",
    "__main__",
]
ROOT = Path(facedeid.__file__).parent
MODULES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms of this package that the module imports anywhere, but for typing only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for child in ast.walk(statement)
    }
    rooms = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "facedeid":
            parts = (node.module or "").split(".")
            rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            rooms |= {n[1] for n in names if n[0] == "facedeid" and len(n) > 1}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "_mount":
            rooms.add(ast.literal_eval(node.args[1]).split(".")[1])
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_upwards(path: Path) -> None:
    own = room(path)
    assert own in ROOMS, f"{own} has no place in the list of rooms"
    allowed = {own, *ROOMS[: ROOMS.index(own)]}
    assert imported_rooms(path) <= allowed


def test_there_is_something_to_check() -> None:
    assert len(MODULES) > 20
    assert "imaging" in imported_rooms(ROOT / "pipeline.py")
