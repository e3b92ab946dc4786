"""The use-cases. They decide ids, times and amounts; storage records them."""
