"""Trackers: NumPy state machines over a session, and the one table of all models (`zoo`)."""
