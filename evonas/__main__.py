"""`python -m evonas`."""

from evonas.cli import main

main()
