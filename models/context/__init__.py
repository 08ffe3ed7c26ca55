"""Methods whose pretext is the context inside one image: one file a method."""
