"""`python -m datasentinel`."""

from datasentinel.cli import main

main()
