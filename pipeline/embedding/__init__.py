"""Encoder and corpus in, Parquet of embeddings out."""
