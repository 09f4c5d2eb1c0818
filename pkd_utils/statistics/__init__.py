"""Numbers about numbers: metrics, intervals, comparisons, power."""
