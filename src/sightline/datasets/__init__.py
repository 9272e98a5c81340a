"""Readers of annotated data in place, in their own layouts. `table` lists the data sets; `check` looks at a copy."""
