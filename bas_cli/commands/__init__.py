"""What each command does: parse, call, show. `bas_cli.app` holds the tree that they hang in."""
