"""Pillow's warnings, silenced while it decodes."""

import threading
import warnings

__all__ = ["quiet"]


class _Quiet:
    """Silences Pillow's warnings while any thread decodes: what matters is checked here.

    `warnings.catch_warnings` alone is not safe among threads: two that overlap restore each
    other's filters. Here the first in saves them and the last out restores them.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif|tifffile)\b")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._saved.__exit__(None, None, None)


quiet = _Quiet()
