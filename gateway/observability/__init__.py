"""Metrics and log events, all declared here."""
