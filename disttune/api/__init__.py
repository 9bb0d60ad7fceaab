"""The entry points of scripts and of the command line."""
