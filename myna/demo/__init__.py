"""The whole pipeline on speech it synthesises itself."""
