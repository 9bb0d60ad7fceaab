"""Algorithms that choose the codes of one layer's weight, one file each."""
