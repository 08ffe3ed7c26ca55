"""A distributed pipeline for video temporal self-supervision."""

__version__ = "0.1.0"
