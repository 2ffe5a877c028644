"""What tests have a child process call: it loads nothing that takes time."""

import os
import threading


class Unspeakable(Exception):
    """Cannot be pickled for what it holds."""

    def __init__(self):
        super().__init__("the mesh is cursed")
        self.lock = threading.Lock()


class Demanding(Exception):
    """Is pickled, and cannot be made again of what it says."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def raise_one(kind, *values):
    raise kind(*values)


def die_once(note):
    """End the process, but for the one that finds the note of the first."""
    if not note.exists():
        note.touch()
        os._exit(7)
    return os.getpid()
