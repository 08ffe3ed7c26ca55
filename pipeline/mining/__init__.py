"""Patch tracks and stored samples: a corpus in, shards out."""
