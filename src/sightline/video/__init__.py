"""Frames in and frames out: videos, image folders and arrays as one kind of source, H.264 files as the sink."""
