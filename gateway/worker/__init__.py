"""The loops that run beside the requests."""
