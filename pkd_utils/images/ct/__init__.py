"""CT volumes and the radiographs computed from them."""
