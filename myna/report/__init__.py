"""A run, or two compared, as one page that opens from disk."""
