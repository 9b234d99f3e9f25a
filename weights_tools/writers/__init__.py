"""A file for each foreign format that a net can be written to: `write(path, net)`."""
