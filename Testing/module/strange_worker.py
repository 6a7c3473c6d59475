"""The real worker with one fault put in, for tests: ``strange_worker.py FAULT``.

memory: every registration runs out of memory; abort: the process crashes in mid-run; noise: libraries print to
standard output; slow: every stage takes a second longer; torchless: PyTorch cannot be imported.
"""

import os
import sys
import time

fault = sys.argv[1]
if fault == "torchless":
    sys.modules["torch"] = None

from synthmorph_torch import worker  # noqa: E402

if fault != "torchless":
    from synthmorph_torch import registration
    start = registration.Stages.start

    def faulty(self, name, fraction):
        start(self, name, fraction)
        if fault == "memory":
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if fault == "abort" and name == "affine transform":
            os.abort()
        if fault == "noise":
            print("a library says hello")
            os.write(1, b"and so does C++\n")
        if fault == "slow" and name:
            time.sleep(1)

    registration.Stages.start = faulty

worker.main()
