"""Networks and objectives. Knows nothing of video files or Ray."""
