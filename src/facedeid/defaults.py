"""What is done when nothing is asked for; without imports, so that the command line is quick."""

__all__ = ["METHOD"]

METHOD = "feature-embedding"
"""Looks natural, and recognisers that it has never seen fail (docs/results.md)."""
