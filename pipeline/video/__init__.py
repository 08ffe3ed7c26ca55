"""From compressed video to the frames shown at given times."""
