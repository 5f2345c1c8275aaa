"""The hot path: from transactions to durable decisions."""
