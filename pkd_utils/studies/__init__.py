"""What the two studies' notebooks share; no other room imports it."""
