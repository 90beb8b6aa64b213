"""What comes from disk: datasets, images, transforms, seed files."""
