"""Base model and adapter in, a bundle out: a folder that a stock runtime loads."""
