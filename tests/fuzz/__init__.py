"""Damage and requests that nobody thought of: a few here, as many as wanted by `make fuzz`."""
