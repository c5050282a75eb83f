"""What we are measured against, and the programs that make the load."""

import contextlib
import json
import os

from .machine import SECONDS, run, server

_SOURCES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "peers")


def compile_tools(directory):
    """The small C programs of benches/peers: no side is slowed down by an interpreter."""
    for name, libs in (("appends", ()), ("stream", ()), ("nbdload", ("-lnbd",))):
        run(["gcc", "-O2", "-Wall", "-Wextra", "-o", f"{directory}/{name}", f"{_SOURCES}/{name}.c", *libs])


def appends(bench, seconds=SECONDS):
    """4 KiB appends to a growing file, one fdatasync each: commits per second."""
    return float(run([f"{bench.tools}/appends", f"{bench.work}/appends", seconds]))


def nbdload(bench, uri, place, block, depth, amount, way="window", seed=1):
    """Writes through libnbd: (bytes per second, writes per second). The last flush is in the time."""
    out = run([f"{bench.tools}/nbdload", uri, place, block, depth, amount, way, seed]).split()
    return float(out[0]), float(out[1])


def fio(*args):
    """One fio job: (IOPS, bytes per second). The time includes `--end_fsync`, but not fio's own start."""
    cmd = ["fio", "--name=x", "--output-format=json", "--randrepeat=0", "--norandommap", "--random_generator=tausworthe64", *args]
    out = run(cmd)
    job = json.loads(out[out.index("{"):])["jobs"][0]
    side = job["read"] if job["read"]["io_bytes"] else job["write"]
    return side["iops"], side["bw_bytes"]


def fio_nbd(uri, rw, depth, size, seconds=SECONDS, bs="4k"):
    """IOPS of a time-based load over NBD."""
    return fio("--ioengine=nbd", f"--uri={uri}", f"--rw={rw}", f"--bs={bs}", f"--iodepth={depth}", f"--size={size}",
               "--time_based", f"--runtime={seconds}")[0]


@contextlib.contextmanager
def nbdkit(bench, path):
    """`nbdkit file` on a unix socket: its URI."""
    sock = f"{bench.work}/nbdkit.sock"
    with server(["nbdkit", "-f", "-U", sock, "file", path], lambda: os.path.exists(sock)):
        yield f"nbd+unix:///?socket={sock}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(sock)


@contextlib.contextmanager
def qemu_nbd(bench, path):
    """`qemu-nbd --cache=none --aio=io_uring` on a unix socket: its URI."""
    sock = f"{bench.work}/qemu.sock"
    cmd = ["qemu-nbd", "-t", "-k", sock, "-f", "raw", "--cache=none", "--aio=io_uring", path]
    with server(cmd, lambda: os.path.exists(sock)):
        yield f"nbd+unix:///?socket={sock}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(sock)
