"""CBIS-DDSM: case tables, files, pixels."""
