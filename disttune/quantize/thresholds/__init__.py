"""Clip ranges of activations from their statistics: one file for each method, found by its name."""
