"""Small heads on frozen tokens, many trained at once."""
