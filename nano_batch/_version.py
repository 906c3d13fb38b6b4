"""The package's version: the compiled core must be of the same."""

VERSION = "0.1.0"
