"""What is said and done about models before they serve: `list`, `info`, `pull`, `verify`, `convert`, `build-small`."""
