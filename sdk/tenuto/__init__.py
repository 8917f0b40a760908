"""Tenuto: serve programs, not requests."""
