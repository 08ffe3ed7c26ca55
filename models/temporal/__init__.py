"""Methods whose pretext is time: one file a method."""
