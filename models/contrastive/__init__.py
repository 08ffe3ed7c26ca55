"""Methods that contrast or join whole images: one file a method."""
