"""One round of work by huey: `python drive.py FOLDER SINGLES ITEMS`. FOLDER is empty.

The program prints its figures as one line of JSON; rates are in items per second.
"""

import json
import logging
import pathlib
import sys
import threading
import time

from huey import SqliteHuey

folder, singles, items = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
logging.getLogger("huey").setLevel(logging.WARNING)

# huey's option `fsync` sets synchronous=FULL.
huey = SqliteHuey("peer", filename=str(folder / "huey.db"), fsync=True)
handled = 0
finished = threading.Event()


@huey.task()
def noop(payload):
    global handled
    handled += 1
    if handled == items:
        finished.set()


def pragma(name):
    return huey.storage.sql(f"pragma {name}", results=True)[0][0]


def enqueue(first, last):
    begun = time.perf_counter()
    for n in range(first, last):
        noop({"n": n, "text": "x" * 180})
    return (last - first) / (time.perf_counter() - begun)


enqueue_rate = enqueue(0, singles)
# huey cannot enqueue several items at once. The other items are enqueued without waiting for the disk and not timed.
huey.storage.sql("pragma synchronous=off")
enqueue(singles, items)
huey.storage.sql("pragma synchronous=full")
asked = {"journal_mode": pragma("journal_mode"), "synchronous": pragma("synchronous")}

consumer = huey.create_consumer(workers=1, periodic=False)
begun = time.perf_counter()
consumer.start()
finished.wait()
drain_rate = items / (time.perf_counter() - begun)
consumer.stop(graceful=True)

print(json.dumps({**asked, "enqueue": enqueue_rate, "bulk": None, "drain": drain_rate, "done": handled}))
