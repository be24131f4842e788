"""``python -m equiframe``."""

from equiframe.cli import main

main()
