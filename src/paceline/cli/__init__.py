"""The command line.  ``main`` is the program, ``commands/`` has one command per file."""
