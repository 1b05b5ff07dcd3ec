"""The commands for people with files, each in a file of its own: options, their checks, and the order of events."""
