"""The version, in one place: read by the package and by the build (which has no torch to import the package with)."""

__version__ = "0.1.0"
