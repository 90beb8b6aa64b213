"""The `bas` command: parses, calls, shows. Nothing below it prints or exits."""
