"""A busy machine may be slow for a moment: that is no failure of a property."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
