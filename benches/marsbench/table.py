"""The table: rounds in turn, medians, spread, goals, noise."""

import statistics
import sys
import time

from .machine import ROUNDS, Cpu, Failed


def note(text):
    print(text, file=sys.stderr, flush=True)


class Turns:
    """The sides of a comparison, measured one after the other, round by round, so that a bad moment hits all of them."""

    def __init__(self, name):
        self.name, self.figures, self.noise, self.used = name, {}, {}, {}

    def take(self, side, fn, *args):
        """One run of one side: its figure, more is better (or None), and how much CPU others used meanwhile."""
        cpu = Cpu()
        begin = time.monotonic()
        figure = fn(*args)
        others, used = cpu.shares()
        self.noise.setdefault(side, []).append(others)
        self.used.setdefault(side, []).append(used)
        self.figures.setdefault(side, []).append(figure)
        text = "done" if figure is None else f"{figure:.1f}"
        note(f"  {self.name}: {side}: {text} ({time.monotonic() - begin:.1f} s, CPU {100 * used:.0f} %, others {100 * others:.0f} %)")
        return figure

    def rounds(self, sides, count=ROUNDS):
        """sides: name -> function, in this order in every round."""
        for _ in range(count):
            for side, fn in sides.items():
                self.take(side, fn)
        return self


class Table:
    def __init__(self):
        self.rows, self.failed, self.noise = [], [], []

    def compare(self, what, unit, goal, turns, ours, peer, scale=1.0):
        """A row: the side `ours` against the side `peer`; the ratio is taken round by round."""
        a, b = turns.figures[ours], turns.figures[peer]
        ratios = [x / y for x, y in zip(a, b)]
        noise = turns.noise[ours] + turns.noise[peer]
        self.noise += noise
        med = statistics.median
        cpu = f"{100 * med(turns.used[ours]):.0f}/{100 * med(turns.used[peer]):.0f}"
        self._add(what, med(a) * scale, med(b) * scale, unit, ratios, goal, True, noise, cpu)

    def limit(self, what, unit, goal, figures, bound, noise=()):
        """A row with an upper limit: figures (one for each round) against a number, less is better."""
        self._add(what, statistics.median(figures), bound, unit, [f / bound for f in figures], goal, False, list(noise))

    def _add(self, what, ours, peer, unit, ratios, goal, is_least, noise, cpu="-"):
        ratio = statistics.median(ratios)
        met = goal is None or (ratio >= goal if is_least else ratio <= goal)
        sign = ">=" if is_least else "<="
        goal_text = "-" if goal is None else f"{sign} {goal:g}"
        spread = f"{min(ratios):.2f}..{max(ratios):.2f}" if len(ratios) > 1 else "one run"
        noise_text = f"{100 * statistics.median(noise):.0f}/{100 * max(noise):.0f}" if noise else "-"
        met_text = "" if goal is None else "met" if met else "MISSED"
        row = (what, number(ours), number(peer), unit, f"{ratio:.2f}", spread, goal_text, met_text, cpu, noise_text)
        self.rows.append(row)
        note("  ".join(row))

    def fail(self, name, error):
        self.failed.append(f"{name}: {error}")
        note(f"{name}: FAILED: {error}")

    def show(self, as_markdown=False):
        head = ("what", "ours", "peer", "unit", "ratio", "spread", "goal", "", "CPU %", "others %")
        lines = [head, *self.rows]
        if as_markdown:
            for r in lines:
                print(f"| {' | '.join(r)} |")
                if r is head:
                    print("|---" * len(head) + "|")
            return
        width = [max(len(r[i]) for r in lines) for i in range(len(head))]
        for r in lines:
            cells = [c.rjust(w) if i in (1, 2, 4) else c.ljust(w) for i, (c, w) in enumerate(zip(r, width))]
            print("  ".join(cells).rstrip())
            if r is head:
                print("  ".join("-" * w for w in width))
        print("\nratio: median of the rounds, taken round by round; spread: lowest..highest; CPU %: of the whole machine, used by our side/by the\n"
              "peer, load generator and kernel threads included; others %: used by anybody else meanwhile, median/highest over the runs")
        if self.noise:
            print(f"noise: others used {100 * statistics.median(self.noise):.0f} % of the CPU in the median run and "
                  f"{100 * max(self.noise):.0f} % in the worst")
        for f in self.failed:
            print(f"not measured: {f}")
        goals = [r for r in self.rows if r[6] != "-"]
        missed = [r for r in goals if r[7] == "MISSED"]
        print(f"{len(goals) - len(missed)} of {len(goals)} goals met, {len(self.failed)} rows not measured")


def number(x):
    if x >= 10000:
        return f"{x:.0f}"
    return f"{x:.1f}" if x >= 10 else f"{x:.3g}"


__all__ = ["Failed", "Table", "Turns", "note"]
