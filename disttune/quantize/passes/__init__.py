"""Transformations of the float graph that leave its outputs as they are, one file each."""
