"""The ground: where things are, which run this is, and whether what was written is whole."""
