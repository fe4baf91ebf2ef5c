"""One verb, one file: each module holds the click command `command`."""
