"""Warehouses that decisions are exported to."""
