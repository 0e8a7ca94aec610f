"""Webhooks: signed messages to receivers that clients name, as Standard Webhooks 1.0 has them."""
