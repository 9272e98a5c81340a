"""Training recipes: one plain, readable loop per family; the header of each gives command, cost and expected number."""
