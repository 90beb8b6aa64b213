"""What is done with a dataset before any run: it is prepared, looked over, and given a configuration."""
