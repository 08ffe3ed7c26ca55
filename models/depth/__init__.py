"""What the depth methods share: decoder, pose network, camera geometry, photometric error."""
