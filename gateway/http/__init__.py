"""The public surfaces: thin handlers over the services."""
