"""``python -m paceline``: the same program as the ``paceline`` command."""

from paceline.cli.main import main

if __name__ == "__main__":
    main()
