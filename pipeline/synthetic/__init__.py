"""Generated corpora, made in seconds and with known state."""
