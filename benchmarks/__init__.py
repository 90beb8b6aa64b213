"""How fast the product is: ratios against plain references of our own, run in turns on this machine.

`make bench IDS="rw_small crf_pair"`, or `python -m benchmarks [ID …]`, prints one JSON line a benchmark; without ids all.
"""
