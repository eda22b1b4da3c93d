"""Images brought to the position of their mean normal image."""
