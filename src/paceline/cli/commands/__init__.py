"""One command per file.  ``paceline.cli.main`` lists them and imports a file only when its command runs."""
