"""The table and the plot of a run: medians over its rounds, their spread, and ratios within each round."""
import math
import statistics
from dataclasses import dataclass


@dataclass
class Row:
    """A line of the table: which numbers, and what they are to reach."""

    label: str
    unit: str
    where: str
    pick: dict  # what a record of the library has to say
    field: str
    scale: float = 1.0  # from the printed number to the unit
    floor: dict | None = None  # what differs in the record of the floor
    floor_target: float | None = None  # at most so many times the floor
    peer_target: float | None = None  # at least so many times better than the peer
    more_is_better: bool = False


def call(label, name, where, floor_target, peer_target, field="p50_us", unit="us", scale=1.0):
    pick = {"call": name, "who": "library"}
    return Row(label, unit, where, pick, field, scale, {"who": "floor"}, floor_target, peer_target)


def outside(label, where, who, floor_target, peer_target, name="remote_select1"):
    pick = {"call": name, "who": who}
    return Row(label, "us", where, pick, "p50_us", 1.0, {"who": "floor"}, floor_target, peer_target)


ROWS = [
    call("SELECT 1, one thread", "select1", "tmpfs", 1.10, 3),
    call("INSERT, one thread, tmpfs", "insert", "tmpfs", 1.10, 1.8),
    call("INSERT, one thread, disk", "insert", "disk", 1.05, 1.2),
    call("INSERT inside a transaction, tmpfs", "insert_inside", "tmpfs", None, None),
    call("10 rows to JSON", "rows_10", "tmpfs", 1.3, 3),
    call("10,000 rows to JSON", "rows_10000", "tmpfs", 1.3, 4, unit="ms", scale=1e-3),
    call("100,000 rows to JSON", "rows_100000", "tmpfs", 1.3, 3, unit="ms", scale=1e-3),
    call("CPU per SELECT 1", "select1", "tmpfs", None, 2, "cpu_us"),
    call("CPU per INSERT", "insert", "tmpfs", None, 2, "cpu_us"),
    Row("SELECT 1, 8 threads", "calls/s", "tmpfs", {"call": "select1_8threads"}, "ops_s", peer_target=2,
        more_is_better=True),
    Row("INSERT, 8 threads, tmpfs (floor: one thread)", "calls/s", "tmpfs", {"call": "insert_8threads"}, "ops_s",
        floor={"call": "insert_1thread"}, floor_target=1, peer_target=4, more_is_better=True),
    Row("INSERT, 8 threads, disk (floor: one thread)", "calls/s", "disk", {"call": "insert_8threads"}, "ops_s",
        floor={"call": "insert_1thread"}, floor_target=1, peer_target=4, more_is_better=True),
    Row("refused of them, tmpfs", "calls", "tmpfs", {"call": "insert_8threads"}, "refused"),
    outside("SELECT 1 from another process, by the library's client", "one processor", "library", 1.25, 2),
    outside("SELECT 1 from another process, bare bytes through the door", "one processor", "bare", 1.25, None),
    outside("INSERT replicated on three nodes, bare bytes through the door", "one processor", "bare", 1.05, None,
            "replicated_insert"),
    outside("the same where the kernel places the seven processes", "tmpfs", "bare", None, None, "replicated_insert"),
    outside("SELECT 1 by the library's client where the kernel places both ends", "tmpfs", "library", None, None),
    Row("peak memory, writing 100,000 rows", "MB", "tmpfs", {"mode": "memory"}, "fill_peak_kb", 1 / 1024),
    Row("peak memory, 100,000 rows to JSON", "MB", "tmpfs", {"mode": "memory"}, "query_peak_kb", 1 / 1024),
    Row("of it beyond the database: what the query adds", "MB", "tmpfs", {"mode": "memory"}, "query_adds_kb", 1 / 1024,
        peer_target=5),
    Row("create to first write, tmpfs", "ms", "tmpfs", {"mode": "start"}, "first_write_us", 1e-3, peer_target=4),
    Row("create to first write, disk", "ms", "disk", {"mode": "start"}, "first_write_us", 1e-3),
    Row("stop", "ms", "tmpfs", {"mode": "start"}, "stop_us", 1e-3),
    Row("dlopen and first call", "ms", "tmpfs", {"mode": "start"}, "load_us", 1e-3, peer_target=3),
    Row("threads after dlopen", "", "tmpfs", {"mode": "start"}, "load_threads"),
    Row("library", "MB", "tmpfs", {"mode": "start"}, "library_bytes", 1e-6),
    Row("idle node: memory", "MB", "tmpfs", {"mode": "start"}, "idle_kb", 1 / 1024),
    Row("idle node: threads of the process", "", "tmpfs", {"mode": "start"}, "idle_threads"),
    Row("idle node: CPU", "us/s", "tmpfs", {"mode": "start"}, "idle_cpu_us_s"),
]


def values(records, row, subject, pick):
    """The number of each round."""
    wanted = {"subject": subject, "where": row.where, **pick}
    return {record["round"]: float(record[row.field]) * row.scale for record in records
            if all(record.get(key) == value for key, value in wanted.items())}


def ratios(over, under):
    return [over[number] / under[number] for number in sorted(over.keys() & under.keys()) if under[number]]


@dataclass
class Result:
    row: Row
    ours: dict
    floor: dict
    peer: dict

    @property
    def to_floor(self):
        """Times the floor's cost: 1.0 is the floor, more is worse (with counts per second, less)."""
        return ratios(self.ours, self.floor)

    @property
    def to_peer(self):
        """Times better than the peer."""
        return ratios(self.ours, self.peer) if self.row.more_is_better else ratios(self.peer, self.ours)


def collect(records):
    results = []
    for row in ROWS:
        ours = values(records, row, "ours", row.pick)
        floor = values(records, row, "ours", {**row.pick, **row.floor}) if row.floor else {}
        if ours:
            results.append(Result(row, ours, floor, values(records, row, "peer", row.pick)))
    return results


def number(x):
    return f"{x:.0f}" if abs(x) >= 1000 or x == int(x) else f"{x:.3g}"


def spread(of):
    """Median, and in brackets the quarters around it."""
    numbers = sorted(of.values())
    if not numbers:
        return ""
    low, high = numbers[len(numbers) // 4], numbers[(3 * len(numbers) - 1) // 4]
    text = number(statistics.median(numbers))
    return text if low == high else f"{text} ({number(low)}-{number(high)})"


def ratio(found, target, at_most):
    if not found:
        return "", ""
    middle = statistics.median(found)
    if target is None:
        return f"{middle:.2f}", ""
    met = middle <= target if at_most else middle >= target
    return f"{middle:.2f}", f"{'<=' if at_most else '>='} {target:g}: {'yes' if met else 'no'}"


def markdown(results, about):
    lines = ["# Measured", "",
             "Written by `make bench` (`make bench-peer` for the columns of the stand-in); README.md here says how.", ""]
    lines += [f"* {key}: {value}" for key, value in about.items()]
    lines += ["", "Medians over the rounds, in brackets the quarters around them; ratios are medians of the rounds' ratios.", "",
              "| | unit | library | floor | / floor | to reach | stand-in | times better | to reach |",
              "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for result in results:
        row = result.row
        floor, floor_met = ratio(result.to_floor, row.floor_target, not row.more_is_better)
        peer, peer_met = ratio(result.to_peer, row.peer_target, False)
        cells = [row.label, row.unit, spread(result.ours), spread(result.floor), floor, floor_met, spread(result.peer),
                 peer, peer_met]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


class Panel:
    """A logarithmic axis with one line of dots for each result."""

    def __init__(self, left, width, low, high, title):
        self.left, self.width, self.low, self.high, self.title = left, width, low, high, title

    def x(self, value):
        value = min(max(value, self.low), self.high)
        return self.left + self.width * math.log(value / self.low) / math.log(self.high / self.low)


def svg(results, about):
    results = [result for result in results if result.to_floor or result.to_peer]
    step, top, names = 22, 60, 380
    height = top + step * len(results) + 30
    panels = [(Panel(names, 260, 0.5, 2, "of the floor's cost"), "to_floor", "floor_target", (0.5, 0.7, 1, 1.4, 2))]
    if any(result.to_peer for result in results):
        panels.append((Panel(names + 320, 320, 0.5, 50, "times better than the stand-in"), "to_peer", "peer_target",
                       (0.5, 1, 2, 5, 10, 20, 50)))
    width = int(panels[-1][0].left + panels[-1][0].width + 30)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="10" y="20" font-size="14">{about["commit"]}, {about["date"]}: a dot for each round, a bar for their '
           'median, a green line for what is to be reached</text>']
    for panel, _, _, marks in panels:
        out.append(f'<text x="{panel.left}" y="40">{panel.title}</text>')
        for mark in marks:
            x = panel.x(mark)
            out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 8}" y2="{height - 24}" stroke="{"#888" if mark == 1 else "#ddd"}"/>'
                       f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle" fill="#666">{mark:g}</text>')
    for line, result in enumerate(results):
        y = top + step * line + 8
        out.append(f'<text x="{names - 15}" y="{y + 4}" text-anchor="end">{result.row.label}</text>')
        for panel, found, target, _ in panels:
            found, target = getattr(result, found), getattr(result.row, target)
            if not found:
                continue
            if target is not None:
                x = panel.x(target)
                out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 8}" y2="{y + 8}" stroke="#2a2" stroke-width="2"/>')
            out += [f'<circle cx="{panel.x(value):.1f}" cy="{y}" r="2.5" fill="#36c" fill-opacity="0.4"/>' for value in found]
            x = panel.x(statistics.median(found))
            out.append(f'<rect x="{x - 1.5:.1f}" y="{y - 6}" width="3" height="12" fill="#136"/>')
    return "\n".join(out) + "\n</svg>\n"


def write(records, about, folder):
    """Writes results.md and results.svg; the table is also returned."""
    results = collect(records)
    text = markdown(results, about)
    (folder / "results.md").write_text(text)
    (folder / "results.svg").write_text(svg(results, about))
    return text
