"""A busy machine may be slow for a moment: that is no failure of a property. `SIGHTLINE_FUZZ` asks for more cases."""

import os

from hypothesis import settings

settings.register_profile("unhurried", deadline=None, max_examples=int(os.environ.get("SIGHTLINE_FUZZ", "100")))
settings.load_profile("unhurried")
