"""Torch networks, one paper per file. Each ends at named maps; what follows them is NumPy (`sightline.trackers`)."""
