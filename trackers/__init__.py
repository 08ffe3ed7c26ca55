"""Boxes through frames. Knows nothing of video files, Ray or training."""
