"""Tokens of frozen encoders, kept on disk or computed while heads train."""
