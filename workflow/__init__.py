"""The order of runs, what may be published, and what a run costs: outside the library."""
