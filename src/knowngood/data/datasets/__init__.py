"""Named public data sets: where they are, how they are checked and opened."""
