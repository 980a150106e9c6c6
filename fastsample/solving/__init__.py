"""Questions in, answers out: many questions share one running batch."""
