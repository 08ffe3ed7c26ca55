"""Losses and what they need: negatives, memory banks, prototypes, monitors."""
