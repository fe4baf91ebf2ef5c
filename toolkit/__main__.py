"""`python -m toolkit` is `edgeplm`."""

from toolkit.cli import main

main()
