"""The command line. `minidnn COMMAND` and `python -m minidnn COMMAND` are the same."""
