"""Writes `src/facedeid/data/MANIFEST.json`, to which shipped files are held when they are loaded.

    python tools/manifest.py            write it
    python tools/manifest.py --check    only compare; exit status 1 if it does not fit

An entry keeps what was written into it by hand (licence, source); size and sha256 are renewed.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

DATA = Path(__file__).parents[1] / "src" / "facedeid" / "data"
SHIPPED = (".safetensors", ".onnx", ".npz")


def manifest(folder: Path, before: dict[str, dict]) -> dict[str, dict]:
    """Entries for all shipped files of a folder."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in SHIPPED:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            own = {"sha256": digest, "size": path.stat().st_size}
            found[path.name] = {**before.get(path.name, {}), **own}
    return found


def main() -> int:
    """Write or compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    target = DATA / "MANIFEST.json"
    before = json.loads(target.read_text("utf-8")) if target.exists() else {}
    after = manifest(DATA, before)
    if parser.parse_args().check:
        return int(before != after)
    target.write_text(json.dumps(after, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
