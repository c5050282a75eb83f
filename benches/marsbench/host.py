"""A host: one root directory, one address, one name; several fit on this machine."""

import contextlib
import json
import os
import subprocess

from .machine import Failed, run, until

RES = "data"


class Host:
    def __init__(self, bench, name, conf, address=None, bin_dir=None, **env):
        self.bench, self.name = bench, name
        self.ip = address or {"alpha": "127.26.0.2", "beta": "127.26.0.3"}[name]
        self.bin = bin_dir or bench.bin
        self.dir = f"{bench.work}/{name}"
        for d in ("mars", "etc"):
            os.makedirs(f"{self.dir}/{d}", exist_ok=True)
        with open(f"{self.dir}/etc/mars.conf", "w", encoding="ascii") as f:
            f.write(conf)
        self.env = dict(
            os.environ,
            MARS_ROOT=f"{self.dir}/mars",
            MARS_DEV_DIR=f"{self.dir}/dev",
            MARS_RUN_DIR=f"{self.dir}/run",
            MARS_ETC_DIR=f"{self.dir}/etc",
            MARS_HOST=name,
            MARS_UNIT_MANAGER="direct",
            MARS_BIN_DIR=self.bin,
            **env,
        )

    def adm(self, *args):
        return run([f"{self.bench.bin}/marsadm", *args], env=self.env)

    def primary(self, disk, res=RES):
        """A cluster of this host alone with one resource that can be written."""
        self.adm("create-cluster", f"--ip={self.ip}")
        self.adm("create-resource", res, disk)
        self.adm("wait-resource", res, "is-device-on")

    def join(self, other, disk, res=RES):
        self.adm("join-cluster", other.name, f"--ip={self.ip}", f"--ip-{other.name}={other.ip}")
        self.adm("join-resource", res, disk)

    def uri(self, res=RES):
        return f"nbd+unix:///{res}?socket={self.dir}/dev/{res}"

    def link(self, path):
        try:
            return os.readlink(f"{self.dir}/mars/{path}")
        except OSError:
            return None

    def replayed(self, res=RES):
        """Number of the log, position, bytes behind it that may be partly applied."""
        log, pos, dirty = self.link(f"resource-{res}/replay-{self.name}").split(",")
        return int(log.split("-")[1]), int(pos), int(dirty)

    def log_path(self, nr, res=RES):
        d = f"{self.dir}/mars/resource-{res}"
        return next((e.path for e in os.scandir(d) if e.name.startswith(f"log-{nr:09}-") and e.is_file(follow_symlinks=False)), None)

    def newest_log(self, res=RES):
        d = f"{self.dir}/mars/resource-{res}"
        return max(int(e.name.split("-")[1]) for e in os.scandir(d) if e.name.startswith("log-") and e.is_file(follow_symlinks=False))

    def live(self, *words, res=RES):
        """What the daemons publish in memory; with words it waits for something (see tests/src/bin/live-page.rs)."""
        return json.loads(run([f"{self.bench.bin}/live-page", f"{self.dir}/run", res, *words]) or "{}")

    def pids(self):
        """unit -> pid of the daemons that run."""
        out = {}
        d = f"{self.dir}/run/units"
        for e in os.scandir(d) if os.path.isdir(d) else ():
            if e.name.endswith(".lock"):
                with open(e.path, encoding="ascii") as f:
                    text = f.read().strip()
                # A process that has ended and was not waited for has no executable any more.
                if text and os.path.exists(f"/proc/{text}/exe"):
                    out[e.name[:-5]] = int(text)
        return out

    def pid(self, kind, res=RES):
        try:
            return self.pids()[f"mars-{kind}@{res}.service"]
        except KeyError:
            raise Failed(f"mars-{kind} does not run on {self.name}: {self.last_words(kind, res)}") from None

    def last_words(self, kind, res=RES):
        try:
            with open(f"{self.dir}/run/units/mars-{kind}@{res}.service.log", encoding="utf-8", errors="replace") as f:
                return "".join(f.readlines()[-3:]).strip()
        except OSError:
            return "no output"

    def kill(self):
        for p in self.pids().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(p, 9)

    def kill_one(self, kind, res=RES):
        pid = self.pid(kind, res)
        os.kill(pid, 9)
        until(f"end of mars-{kind}", lambda: not os.path.exists(f"/proc/{pid}/exe"))

    @contextlib.contextmanager
    def running(self):
        """Ends the daemons also after a failure."""
        try:
            yield self
            self.adm("stop")
        finally:
            self.kill()

    def spawn(self, daemon, *args):
        """A daemon as our own child, so that its start can be timed."""
        log = open(f"{self.dir}/{daemon}.log", "ab")  # noqa: SIM115 - goes to the child
        with log:
            return subprocess.Popen([f"{self.bin}/{daemon}", *args], env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
