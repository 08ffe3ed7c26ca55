"""Networks: trunks, pooling, heads, and the encoder that a run exports."""
