"""What is done with a run or a dataset outside the pipeline; functions return values, the command shows them."""
