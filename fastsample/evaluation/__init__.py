"""Question sets: every sample kept in a folder, rules replayed on what is stored, one page about it."""
