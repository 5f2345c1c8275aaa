"""Offline stores: point-in-time features over history."""
