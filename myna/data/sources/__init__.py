"""What recordings come from: one file per kind of source."""
