"""Pixels: frames of any legal kind to RGB, crops and their exact inverses, and the picture a person looks at."""
