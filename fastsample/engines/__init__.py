"""Requests in, samples out. `base` is what every engine meets; `local` writes with a model in this process."""
