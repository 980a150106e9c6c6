"""Prompts in, many samples of each out, as tensors: for rollouts, and for whoever does the rest alone."""
