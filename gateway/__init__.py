"""Seedance Gateway: a reverse proxy for asynchronous video generation."""

__version__ = "0.1.0"
