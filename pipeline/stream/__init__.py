"""Numbered samples, decoded, as a stream: the one stage graph."""
