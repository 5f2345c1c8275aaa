"""Clients of servers, made from URLs: ``wiring`` hands them to the adapters, so that those of a process share them."""
