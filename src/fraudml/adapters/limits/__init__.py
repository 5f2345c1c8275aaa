"""Rates that processes share; see :mod:`fraudml.service.shared_limit`."""
