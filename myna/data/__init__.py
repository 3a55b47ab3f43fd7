"""From sources to a catalog of dataset versions."""
