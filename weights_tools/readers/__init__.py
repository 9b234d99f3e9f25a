"""A file for each foreign format: `read(path, ...) -> Foreign`, without the framework that wrote it."""
