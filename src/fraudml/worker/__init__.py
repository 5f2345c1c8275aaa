"""Kafka in, decisions out: read, decide, commit to the log, publish and move on as one."""
