"""Frames in and frames out: videos, images, arrays, cameras and streams as one kind of source; H.264 and GIF out."""
