"""What is done to pictures before the network sees them, on the training device."""
