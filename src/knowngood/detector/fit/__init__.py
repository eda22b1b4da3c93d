"""What a fit does, station by station: plan, train, fit the score, calibrate."""
