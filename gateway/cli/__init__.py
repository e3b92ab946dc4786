"""The command line: doors to the services."""
