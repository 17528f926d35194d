"""Deliberate faults in the source (mutants), to see whether the tests find each: data, a patching launcher, a runner.

Behind ``clustercore mutants``. The catalogue itself stands beside the tests of this project, in ``tests/mutants``.
"""
