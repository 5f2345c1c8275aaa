"""Where history comes from: files today."""
