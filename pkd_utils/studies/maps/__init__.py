"""The first study: maps of trained students, compared."""
