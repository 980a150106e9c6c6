"""What is learnt from stored runs: labels of steps, heads that score them, and files for trainers."""
