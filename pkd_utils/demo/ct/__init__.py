"""The embedded CT cohort, in the layout of INSPECT."""
