"""`python -m facedeid`."""

from facedeid.cli import main

main()
