"""What may leave the house: the gate, the search for leaks, the written pages."""
