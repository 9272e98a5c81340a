"""Readers of annotated data in place, in its own layout: sequences (`clips`) and images with boxes (`stills`)."""
