"""The second study: heads of frozen encoders, and the claims about them."""
