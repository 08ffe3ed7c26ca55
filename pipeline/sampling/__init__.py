"""Which frames make a sample: pure plans over index rows, one file a family."""
