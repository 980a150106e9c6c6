"""What is learnt: labels of steps and heads that score them, files for trainers, a puzzle before it is answered."""
