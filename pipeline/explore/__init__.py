"""A page over embeddings in the browser of this machine: map, moments, views side by side."""
