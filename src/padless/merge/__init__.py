"""Averages of checkpoints, and how each of them and the average does on validation text."""
