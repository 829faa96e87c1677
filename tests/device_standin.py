"""A GPU made of host memory, for tests of all that stands above `hpcml.collectives.device.runtime`.

Its streams are as late as streams may be: what is put on one is done when somebody waits for an event behind it, and
not before, and then nothing else is done but what that event comes after. So a wait that is missing, of the host or
between two streams, shows as wrong data, every time. Memory that is given back is overwritten on the stream that it was
for.
The kernels are those of the GPU, compiled for the processor. Another process can map memory by its handle.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import mmap
import os
import subprocess
import tempfile
import threading
from collections import deque
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hpcml.collectives.device.kernels import code
from hpcml.collectives.device.runtime import Runtime, use_runtimes

PRELUDE = Path(__file__).with_name("kernel_prelude.h")
OFFSET = 256  # of memory from the start of its allocation, as in a pool
CALLERS = 1  # the stream that is current at first


def function(source, options, kernel):
    """A kernel as a function of the processor."""
    text = f'#include "{PRELUDE}"\n{code(source)}'
    known = hashlib.sha256("\0".join([text, PRELUDE.read_text(), *options]).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"hpcml-kernels-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    library = folder / f"{known}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as own:
            command = ["g++", "-O1", "-fwrapv", "-fno-strict-aliasing", "-ffp-contract=off", "-fPIC", "-shared"]
            command += ["-std=c++17", "-Wno-unknown-pragmas", "-x", "c++", *options, "-", "-o", f"{own}/made.so"]
            subprocess.run(command, input=text, text=True, check=True)
            os.replace(f"{own}/made.so", library)
    found = getattr(ctypes.CDLL(str(library)), kernel)
    found.restype = None
    return found


class Memory:
    def __init__(self, runtime, nbytes, stream, offset):
        self.runtime, self.nbytes, self.stream = runtime, nbytes, stream
        self.file = os.memfd_create("hpcml-device")
        os.ftruncate(self.file, nbytes + offset)
        self.map = mmap.mmap(self.file, nbytes + offset)
        self.bytes = np.frombuffer(self.map, np.uint8)
        self.bytes[:] = 0xA5
        self.base = self.bytes.ctypes.data
        self.pointer = self.base + offset
        runtime.made += 1  # file numbers are used again
        runtime.allocations[self.base] = self.file, nbytes + offset, runtime.made

    def __del__(self):
        if not hasattr(self, "bytes"):
            return
        kept, file = self.bytes, self.file
        self.runtime.allocations.pop(self.base, None)

        def given_back():
            kept[:] = 0xEE
            os.close(file)

        self.runtime.put(self.stream, given_back)


class Event:
    def __init__(self, runtime, stream):
        self.runtime, self.stream, self.come, self.polls = runtime, stream, False, 0

    def set(self):
        self.come = True

    def done(self):
        self.polls += 1
        if self.polls > 1:
            self.synchronize()
        return self.come

    def synchronize(self):
        self.runtime.run_until(self)


class StandIn(Runtime):
    name, gpu = "a stand-in", "stand-in"

    def __init__(self):
        self.queues = {CALLERS: deque()}
        self.current = CALLERS
        self.allocations = {}
        self.made = 0
        self.opened = {}
        self.lock = threading.RLock()
        self.has_handles = True

    def use(self):
        pass

    def current_stream(self, kind):
        return self.current

    def new_stream(self):
        stream = len(self.queues) + 1
        self.queues[stream] = deque()
        return stream

    @contextmanager
    def on(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def put(self, stream, work):
        with self.lock:
            self.queues[stream].append(work)

    def record(self, stream):
        event = Event(self, stream)
        self.put(stream, event.set)
        return event

    def wait(self, stream, event):
        self.put(stream, event.synchronize)

    def run_until(self, event):
        with self.lock:
            while not event.come:
                self.queues[event.stream].popleft()()

    def synchronize(self, stream):
        self.record(stream).synchronize()

    def empty(self, nbytes, stream):
        return Memory(self, nbytes, stream, OFFSET)

    def shareable(self, nbytes):
        return Memory(self, nbytes, CALLERS, 0)

    def pinned(self, nbytes):
        return np.full(nbytes, 0xB7, np.uint8)

    def copy(self, to, source, nbytes, stream):
        self.put(stream, lambda: ctypes.memmove(to, source, nbytes))

    @functools.cache  # noqa: B019  (one for the whole run)
    def _function(self, source, options, kernel):
        return function(source, options, kernel)

    def launch(self, source, options, kernel, items, arguments, stream):
        run = self._function(source, tuple(options), kernel)
        given = [ctypes.c_double(a) if isinstance(a, float) else ctypes.c_longlong(int(a)) for a in arguments]
        self.put(stream, lambda: run(*given))

    def array(self, kind, owner, pointer, shape, dtype):
        return Array(self, owner, pointer, shape, dtype)

    def handle(self, pointer):
        for base, (file, nbytes, serial) in list(self.allocations.items()):
            if base <= pointer < base + nbytes and (self.has_handles or pointer == base):
                return f"{os.getpid()}:{file}:{nbytes}:{serial}".encode(), pointer - base
        raise OSError("no handle")

    def open(self, handle):
        process, file, nbytes, _ = map(int, handle.rstrip(b"\0").decode().split(":"))
        if process == os.getpid():
            raise OSError("a handle of one's own memory")
        own = os.open(f"/proc/{process}/fd/{file}", os.O_RDWR)
        array = np.frombuffer(mmap.mmap(own, nbytes), np.uint8)
        os.close(own)
        self.opened[array.ctypes.data] = array
        return array.ctypes.data

    def close(self, pointer):
        del self.opened[pointer]


class Array:
    """An array in its memory, as a user has one."""

    def __init__(self, runtime, owner, pointer, shape, dtype, strides=None):
        self.runtime, self.owner, self.pointer = runtime, owner, pointer
        self.shape, self.dtype, self.strides = tuple(shape), np.dtype(dtype), strides

    @property
    def __cuda_array_interface__(self):
        said = {"shape": self.shape, "typestr": self.dtype.str, "data": (self.pointer, False), "version": 3}
        return {**said, "strides": self.strides}

    def view(self):
        """As it is at this moment: for work on a stream."""
        memory = self.owner
        while not isinstance(memory, Memory):  # an array's piece
            memory = memory.owner
        count = max(memory.bytes.nbytes - (self.pointer - memory.base), 0)
        place = (ctypes.c_uint8 * count).from_address(self.pointer)
        return np.ndarray(self.shape, self.dtype, place, 0, self.strides)

    def set(self, values):
        """Put on the current stream."""
        values, view = np.array(values, self.dtype), self.view()

        def write():
            view[...] = values

        self.runtime.put(self.runtime.current, write)
        return self

    def get(self):
        """What is there once all on the current stream is done."""
        self.runtime.synchronize(self.runtime.current)
        return self.view().copy()


class Device:
    """What tests use of it."""

    def __init__(self):
        self.runtime = StandIn()

    def array(self, values, like=None):
        """An array of these values, which the current stream will have written; ``like``: of its strides."""
        values = np.asarray(values)
        memory = self.runtime.empty(max(values.nbytes, 1), self.runtime.current)
        return Array(self.runtime, memory, memory.pointer, values.shape, values.dtype).set(values)

    def strided(self, values):
        """One that is not contiguous: every second item of the last axis, the axes in reverse."""
        values = np.asarray(values)
        room = np.zeros((*values.shape[::-1][:-1], 2 * values.shape[0]), values.dtype)
        memory = self.runtime.empty(max(room.nbytes, 1), self.runtime.current)
        strides = tuple(reversed((*room.strides[:-1], 2 * values.dtype.itemsize)))
        return Array(self.runtime, memory, memory.pointer, values.shape, values.dtype, strides).set(values)


@contextmanager
def standing_in():
    """Arrays with ``__cuda_array_interface__`` are the stand-in's in this block."""
    device = Device()
    use_runtimes(lambda pointer: device.runtime)
    try:
        yield device
    finally:
        use_runtimes(None)
