"""How good a representation is: one file a protocol."""
