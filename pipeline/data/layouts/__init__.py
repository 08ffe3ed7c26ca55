"""How videos lie in storage: each layout is asked for the videos of a location."""
