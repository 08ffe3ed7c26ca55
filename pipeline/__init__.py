"""Data in motion: the only package that knows files, Ray and the training loop."""
