"""The training loop: how a run is started, what it does, and what it leaves."""
