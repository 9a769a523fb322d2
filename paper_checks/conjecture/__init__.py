"""Conjectures of our own, on trial like the rest."""
