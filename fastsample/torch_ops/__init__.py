"""torch's private operators: each is tried on a small example once, and has a public way around it."""
