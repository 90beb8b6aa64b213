"""`python -m benchmarks [ID …]`: one JSON line a benchmark on stdout; exit code 2 on an unknown id."""

from __future__ import annotations

import json
import sys

import torch

from benchmarks.registry import TABLE, line


def main(words: list[str]) -> int:
    """Run the benchmarks named in WORDS, or all."""
    unknown = [word for word in words if word not in TABLE]
    if unknown:
        print(f"error: no benchmark '{unknown[0]}'; there are {' '.join(TABLE)}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    for identity in words or TABLE:
        print(json.dumps(line(identity), ensure_ascii=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
