"""``python -m clustercore.cli``: the ``clustercore`` command without its script."""

from clustercore.cli import main

main()
