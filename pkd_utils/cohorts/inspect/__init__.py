"""INSPECT: studies and their tables."""
