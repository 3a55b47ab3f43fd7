"""The container in Redis: batches wait there, in bounded memory, for one run's trainer."""
