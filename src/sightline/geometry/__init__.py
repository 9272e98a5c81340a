"""Boxes, crops, maps and windows: NumPy only, pure functions, float64."""
