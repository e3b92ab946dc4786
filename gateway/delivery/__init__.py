"""Delivery of webhooks: to addresses that strangers name, so it trusts none of them."""
