"""Metrics on arrays: what a benchmark measures, apart from who ran it."""
