"""Settings of all tests: none asserts how long an example takes, since machines are loaded."""

from hypothesis import settings

settings.register_profile("disttune", deadline=None)
settings.load_profile("disttune")
