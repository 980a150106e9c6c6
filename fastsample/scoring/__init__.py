"""What a text is worth: scorers give every sample a number, many samples at a time."""
