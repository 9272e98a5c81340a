"""The pieces a training loop needs, each a plain function or value; the loops themselves are in `sightline.recipes`."""
