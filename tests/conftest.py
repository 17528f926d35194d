"""How hard hypothesis looks: ``HYPOTHESIS_PROFILE`` is ``default`` (seconds), ``ci`` (minutes) or ``nightly``.

``hunt`` is for mutants (``tests/mutants``): whether a test fails is all that is asked, so nothing is made small.
"""

import os

from hypothesis import HealthCheck, Phase, settings

# A schedule's length, and so its time, varies by orders of magnitude: a deadline for each says nothing.
settings.register_profile("default", max_examples=100, deadline=None)
settings.register_profile(
    "ci", max_examples=1500, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("nightly", parent=settings.get_profile("ci"), max_examples=20_000)
settings.register_profile(
    "hunt", parent=settings.get_profile("default"), phases=[Phase.explicit, Phase.generate], database=None
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
