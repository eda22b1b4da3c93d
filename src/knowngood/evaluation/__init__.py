"""How right a detector is on labelled images: metrics, figures, reports."""
