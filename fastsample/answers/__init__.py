"""From texts to answers that can be counted. Standard library only; Math-Verify runs in a process of its own."""
