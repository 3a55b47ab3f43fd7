"""Text from audio files."""
