"""Measures of exposure that need no attack: ranks by counting, noise, Fisher information, all equations together."""
