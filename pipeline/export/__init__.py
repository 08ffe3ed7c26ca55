"""The way out: embeddings and encoders in the formats of other programs."""
