"""Dataset versions as tar shards that can lie anywhere: written, checked, read."""
