"""Bundled models, data and job files that `demo` and the tests run."""
