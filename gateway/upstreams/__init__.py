"""Adapters to providers: one HTTP client, one module a dialect."""
