"""Stored answers, and the scripts that make them."""
