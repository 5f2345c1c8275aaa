"""Decisions of a short while ago, shared by processes; see :mod:`fraudml.decisions.recent`."""
