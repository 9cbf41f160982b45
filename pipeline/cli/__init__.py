"""The `tacit` command: one module a sub-command; parses, calls, prints."""
