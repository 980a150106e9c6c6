"""What is learnt from stored runs: labels of steps, and heads that score them."""
