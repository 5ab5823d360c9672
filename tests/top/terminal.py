"""Runs a command in a terminal of its own, as a person at a keyboard would, and prints as JSON what came of it.

    terminal.py COLUMNS ROWS UNTIL THEN COMMAND…

When the command has printed UNTIL, it gets THEN: `quit` presses q, `resize` makes the terminal narrower and then presses
q, `terminate` sends SIGTERM.
"""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

# Seconds. Nothing here takes long but on a busy machine.
PATIENCE = 60


def size(terminal, columns, rows):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def read_until(terminal, is_enough):
    """What the command prints until there is enough or it ends."""
    text, end = b"", time.monotonic() + PATIENCE
    while not is_enough(text.decode(errors="replace")) and time.monotonic() < end:
        if select.select([terminal], [], [], 1)[0]:
            try:
                text += os.read(terminal, 65536)
            except OSError:
                break
    return text.decode(errors="replace")


def main():
    columns, rows, until, then, *command = sys.argv[1:]
    terminal, side = pty.openpty()
    size(terminal, int(columns), int(rows))
    before = termios.tcgetattr(side)
    child = os.fork()
    if child == 0:
        os.setsid()
        fcntl.ioctl(side, termios.TIOCSCTTY, 0)
        for number in (0, 1, 2):
            os.dup2(side, number)
        os.execvp(command[0], command)
    shown = read_until(terminal, lambda text: until in text)
    if until not in shown:
        os.kill(child, signal.SIGKILL)
        sys.exit(f"{until!r} was not printed: {shown!r}")
    if then == "resize":
        size(terminal, 40, int(rows))
        shown += read_until(terminal, lambda text: "q quit" in text)
    if then == "terminate":
        os.kill(child, signal.SIGTERM)
    else:
        os.write(terminal, b"q")
    last = read_until(terminal, lambda text: "\x1b[?1049l" in text)
    _, status = os.waitpid(child, 0)
    # What is pending is not part of the comparison, and neither is the time of the last change.
    restored = termios.tcgetattr(side)[:4] == before[:4]
    print(json.dumps({"code": os.waitstatus_to_exitcode(status), "shown": shown, "last": last, "is_restored": restored}))


main()
