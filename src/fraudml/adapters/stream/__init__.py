"""Streams of messages."""
