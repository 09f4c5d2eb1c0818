"""Does a report teach the case, or only the label? Arms that differ in their targets, on frozen features."""
