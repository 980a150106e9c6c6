"""What is learnt from stored runs: labels of steps, heads that score them, and files for trainers; and what is learnt of a puzzle before it
is answered."""
