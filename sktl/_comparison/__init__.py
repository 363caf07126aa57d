"""Contenders as a table, and what it says of transfer."""
