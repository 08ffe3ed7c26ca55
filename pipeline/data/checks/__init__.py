"""Is a data set sound? What an index shows of each video, of videos side by side, and of events."""
