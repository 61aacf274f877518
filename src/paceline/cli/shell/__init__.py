"""The interactive shell: ``session`` does the work, ``completion`` and ``prompt`` are its face."""
