"""One contender in a process of its own: prepares, then runs one step per line of stdin.

Prints the seconds of each step, and at the end of the input its peak memory in MB.
"""

import json
import resource
import sys
import time
from pathlib import Path

import contenders

name, folder, size, batch = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
files = sorted((folder / "images").rglob("*.png"))
real_stdout, sys.stdout = sys.stdout, sys.stderr  # a library's own prints stay out of the answers
step = getattr(contenders, name)(folder, files, size, batch)
step()  # the first is slower: memory is taken, kernels are chosen, caches are filled
print(json.dumps({"images": len(files)}), file=real_stdout, flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    step()
    print(json.dumps({"seconds": time.perf_counter() - start}), file=real_stdout, flush=True)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"peak_mb": peak}), file=real_stdout, flush=True)
