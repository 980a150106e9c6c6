"""Rules that say when a vote is over and which answer it elects. Standard library only."""
