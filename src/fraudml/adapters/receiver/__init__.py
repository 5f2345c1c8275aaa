"""Where history is replayed to, besides streams."""
