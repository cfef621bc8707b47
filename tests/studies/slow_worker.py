"""A worker whose runs take a moment, for tests: notes in the file of $BEGUN that they begin; some never end."""

import os
import signal
import time

from meta_opt.studies.workers import serve


def perform(work, run):
    with open(os.environ["BEGUN"], "a") as file:
        file.write(f"{work['name']} {run}\n")
    if work.get("kills"):
        os.kill(os.getpid(), signal.SIGKILL)
    print("what prints is no answer")
    time.sleep(work["seconds"])
    return {"results": {"double": 2 * run}, "seconds": {"total": work["seconds"]}}


if __name__ == "__main__":
    serve(perform)
