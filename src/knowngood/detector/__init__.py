"""The detector: what is fitted, what it says of new items, and why."""
