"""The shipped configurations: each holds only what differs from the defaults."""
