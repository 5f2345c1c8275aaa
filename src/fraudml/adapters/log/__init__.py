"""Decision logs: the durable record of what was decided."""
