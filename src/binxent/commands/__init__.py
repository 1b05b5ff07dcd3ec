"""The commands of the command line besides ``demo``, each in a file of its own, and what they share."""
