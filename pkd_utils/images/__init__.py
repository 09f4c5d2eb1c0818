"""From a file on disk to an array."""
