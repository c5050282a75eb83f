"""This machine: running programs, whose CPU time was used, files that play disks, and cleaning up whatever happens."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time

GIB = 1 << 30
MIB = 1 << 20

ROUNDS = int(os.environ.get("ROUNDS", "3"))
SECONDS = float(os.environ.get("SECONDS_PER_RUN", "3"))
#: Shorter runs are only for trying the bench: they also write less than the rows say.
IS_FULL = SECONDS >= 3

_CORES = os.cpu_count() or 1
_TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A row cannot be measured. Others go on."""


def run(cmd, **kw):
    """Standard output of a program; its failure is ours."""
    cmd = [str(c) for c in cmd]
    kw.setdefault("stdin", subprocess.DEVNULL)
    r = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, **kw)
    if r.returncode:
        raise Failed(f"{' '.join(cmd)}: exit {r.returncode}\n{r.stdout[-2000:]}{r.stderr[-2000:]}")
    return r.stdout


def timed(cmd, **kw):
    begin = time.monotonic()
    run(cmd, **kw)
    return time.monotonic() - begin


def until(what, cond, limit=120.0, step=0.002):
    """Looks again and again: measuring is the one place where that is the point."""
    end = time.monotonic() + limit
    while not cond():
        if time.monotonic() > end:
            raise Failed(f"timeout: {what}")
        time.sleep(step)


def disk(path, size):
    """A file that plays a disk: every block is allocated and written, as on a real disk, and in no page cache."""
    run(["dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={size // MIB}", "oflag=direct", "conv=fdatasync"])
    return path


def settle():
    """What earlier runs left to be written is written now and not during the next one."""
    os.sync()


def forget(*paths):
    """Takes files out of the page cache."""
    for p in paths:
        fd = os.open(p, os.O_RDONLY)
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def warm(*paths):
    """Brings files into the page cache."""
    for p in paths:
        with open(p, "rb", buffering=0) as f:
            while f.read(MIB):
                pass


# ---- processes of this bench -------------------------------------------------------------------------------------------


def adopt_orphans():
    """Daemons whose parent ends become children of this process: so all of them can be counted, and ended at the end."""
    pr_set_child_subreaper = 36
    if ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0):
        raise Failed(f"prctl: {os.strerror(ctypes.get_errno())}")


def prefer(nice):
    """Foreign load ruins commits more than anything else, so both sides run with this priority when it is allowed: the processes, and
    the session among the other sessions (where the kernel groups by session, the first alone would change nothing)."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w", encoding="ascii") as f:
        f.write(str(nice))


def _processes():
    """pid -> (parent, state, CPU ticks of it and of its children that it has waited for)."""
    out = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as f:
                    fields = f.read().rsplit(") ", 1)[1].split()
                out[int(name)] = (int(fields[1]), fields[0], sum(int(x) for x in fields[11:15]))
    return out


def _family(procs):
    """This process and everything below it."""
    below = {}
    for pid, (parent, _, _) in procs.items():
        below.setdefault(parent, []).append(pid)
    out, todo = [], [os.getpid()]
    while todo:
        pid = todo.pop()
        out.append(pid)
        todo += below.get(pid, [])
    return out


def end_family():
    """Ends all processes below this one, orphans included. They are ours by descent, so nobody else's can be hit."""
    for _ in range(50):
        procs = _processes()
        left = [p for p in _family(procs) if p != os.getpid() and procs[p][1] != "Z"]
        if not left:
            return
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


class Cpu:
    """How much CPU was used while something ran. By others: all time that was not idle (time stolen by the hypervisor included) minus the
    time of this bench's processes and of the kernel's threads, which write back and serve loop devices for us."""

    def __init__(self):
        self.before = self._look()
        self.begin = time.monotonic()

    @staticmethod
    def _look():
        with open("/proc/stat", encoding="ascii") as f:
            n = [int(x) for x in f.readline().split()[1:9]]
        procs = _processes()
        kernel = sum(t for parent, _, t in procs.values() if parent == 2)
        ours = sum(procs[p][2] for p in _family(procs) if p in procs)
        return sum(n) - n[3] - n[4], ours + kernel

    def shares(self):
        """What others used and what this bench and the kernel's threads used: shares of the whole machine, 0 to 1."""
        span = time.monotonic() - self.begin
        busy, ours = (b - a for a, b in zip(self.before, self._look()))
        whole = _TICKS * _CORES * max(span, 1e-9)
        return max(0.0, (busy - ours) / whole), ours / whole


# ---- cleaning up -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(device, directory):
    os.makedirs(directory, exist_ok=True)
    run(["mount", "-t", "ext4", device, directory])
    try:
        yield directory
    finally:
        detach(["umount", directory])


@contextlib.contextmanager
def loop_device(path):
    """A loop device with direct I/O over a file."""
    device = run(["losetup", "--find", "--show", "--direct-io=on", path]).strip()
    try:
        yield device
    finally:
        detach(["losetup", "--detach", device])


def detach(cmd):
    """Tries for a while: a process that has just been killed may still hold it."""
    for attempt in range(100):
        if subprocess.run(cmd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0:
            return
        time.sleep(0.05 if attempt < 40 else 0.2)
    print(f"bench: {' '.join(cmd)} does not work; do it by hand")


@contextlib.contextmanager
def server(cmd, ready, **kw):
    """A process that serves while the block runs."""
    kw.setdefault("stdout", subprocess.DEVNULL)
    kw.setdefault("stderr", subprocess.DEVNULL)
    with subprocess.Popen([str(c) for c in cmd], stdin=subprocess.DEVNULL, **kw) as p:
        try:

            def is_up():
                if p.poll() is not None:
                    raise Failed(f"{cmd[0]} ended with {p.returncode}")
                return ready()

            until(f"{cmd[0]} serves", is_up, 20)
            yield p
        finally:
            p.terminate()
            try:
                p.wait(20)
            except subprocess.TimeoutExpired:
                p.kill()
