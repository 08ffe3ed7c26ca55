"""What a corpus is: index, layouts, images, shards."""
