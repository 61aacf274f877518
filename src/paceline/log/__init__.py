"""The replicated log on disk, the vote file, retention, custody of removed entries.  See DESIGN.md."""
