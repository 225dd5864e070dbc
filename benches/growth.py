"""How costs grow with the size of the database, of the cluster and of a value, and with the number of connections:
docs/performance/growth.md and growth.svg."""
import argparse
import os
import subprocess
import sys
from pathlib import Path

import run


def records(place, library, *arguments):
    process = place.start("driver", *arguments[:1], library, *arguments[1:])
    text, _ = process.communicate(timeout=3600)
    if process.returncode != 0:
        raise run.Failed(f"driver {' '.join(map(str, arguments))} ended with {process.returncode}, see above")
    print(text, file=sys.stderr)
    return [{"what": line.split()[0], **dict(word.split("=", 1) for word in line.split() if "=" in word)}
            for line in text.splitlines()]


def ms(record, key):
    return float(record[key]) / 1000


def size_table(found):
    rows = []
    by_size = {}
    for record in found:
        name = record.get("call", record["what"])
        by_size.setdefault(record["mb"], {})[name] = record
    for size, parts in by_size.items():
        fill, insert, restart, join = (parts[part] for part in ("fill_1mb", "insert", "restart", "insert_meanwhile"))
        rows.append([int(size), ms(fill, "p50_us"), ms(fill, "max_us"), ms(insert, "p50_us"), ms(insert, "p99_us"),
                     ms(parts["snapshots"], "last_us"), ms(restart, "stop_us"), ms(restart, "restart_us"), float(restart["memory_kb"]) / 1024,
                     float(restart["restarted_kb"]) / 1024, ms(join, "join_us"), ms(join, "p50_us"), ms(join, "p99_us"),
                     ms(join, "max_us")])
    return rows


def cluster_table(found):
    return [[int(record["nodes"]), ms(record, "join_us"), ms(record, "p50_us"), ms(record, "p99_us"),
             float(record["cpu_us"]), float(record["memory_kb"]) / 1024] for record in found]


def value_table(found):
    by_size = {}
    for record in found:
        by_size.setdefault(int(record["bytes"]), {})[record["call"]] = record
    return [[size, ms(parts["insert"], "p50_us"), ms(parts["insert"], "p99_us"), ms(parts["select"], "p50_us"),
             ms(parts["select"], "p99_us")] for size, parts in by_size.items()]


SIZE = ["MB", "write of 1 MB, ms", "slowest, ms", "INSERT, ms", "p99, ms", "snapshot, ms", "stop, ms",
        "start to first write, ms", "memory, MB", "memory after the start, MB", "join, ms", "INSERT meanwhile, ms", "p99, ms", "slowest, ms"]
CLUSTER = ["nodes", "join, ms", "INSERT, ms", "p99, ms", "CPU of all, us", "memory of all, MB"]
VALUE = ["bytes", "INSERT, ms", "p99, ms", "SELECT to JSON, ms", "p99, ms"]
RESULT = ["rows", "JSON, bytes", "query, ms", "p99, ms", "memory it adds, MB"]
SETTING = ["setting", "UPDATE, ms", "p99, ms", "slowest, ms", "snapshots", "the longest, ms", "directory, MB", "memory, MB",
           "start to first write, ms"]
# What is given to the driver after the size; the first two are threshold and trailing of dqlitepy_node_set_snapshot_params.
SETTINGS = {"none: weighed against the log": [], "not compressed": ["uncompressed"], "1024, 8192 (the engine's own)": ["1024", "8192"],
            "64, 128": ["64", "128"], "16384, 65536": ["16384", "65536"]}
CONNECTIONS = ["connections", "open one, us", "SELECT 1, us", "p99, us", "CPU, us", "memory, MB", "threads"]


def result_table(found):
    return [[int(record["rows"]), int(record["bytes"]), ms(record, "p50_us"), ms(record, "p99_us"),
             float(record["peak_kb"]) / 1024] for record in found]


def megabytes_of(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def setting_row(place, library, where, name, megabytes):
    folder = place.fresh(where, "setting")
    found = records(place, library, "setting", folder, megabytes, *SETTINGS[name])
    update, restart = (next(record for record in found if record.get("call", record["what"]) == what)
                       for what in ("update", "restart"))
    snapshots = next(record for record in found if record.get("part") == "update")
    return [name, ms(update, "p50_us"), ms(update, "p99_us"), ms(update, "max_us"), int(snapshots["count"]),
            ms(snapshots, "longest_us"), megabytes_of(Path(folder)), float(restart["memory_kb"]) / 1024, ms(restart, "restart_us")]


def connection_table(found):
    return [[int(record["connections"]), float(record["open_us"]), float(record["p50_us"]), float(record["p99_us"]),
             float(record["cpu_us"]), float(record["memory_kb"]) / 1024, int(record["threads"])] for record in found]


def text_of(cell):
    if isinstance(cell, str):
        return cell
    return f"{cell:.3g}" if isinstance(cell, float) and cell < 1000 else f"{cell:.0f}"


def markdown(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(map(text_of, row)) + " |" for row in rows])


def curve(heads, rows, column, left, top, colour="#36c"):
    """One small plot: the first column against another one, both from zero."""
    wide, high = 260, 150
    most_x, most_y = max(row[0] for row in rows), max(row[column] for row in rows) or 1
    points = [(left + wide * row[0] / most_x, top + high - high * row[column] / most_y) for row in rows]
    out = [f'<text x="{left}" y="{top - 8}">{heads[column]} (up to {most_y:.3g}), {heads[0]} up to {most_x}</text>',
           f'<polyline fill="none" stroke="#888" points="{left},{top} {left},{top + high} {left + wide},{top + high}"/>',
           f'<polyline fill="none" stroke="{colour}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>']
    return out + [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]


def svg(sizes, connections, clusters, values, results):
    plots = [(SIZE, sizes, column) for column in (3, 7, 8)] + [(CONNECTIONS, connections, column) for column in (1, 2, 5)]
    plots += [(SIZE, sizes, 10), (CLUSTER, clusters, 2), (VALUE, values, 1), (SIZE, sizes, 5), (RESULT, results, 2)]
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="960" height="850" font-family="sans-serif" font-size="11">',
           '<rect width="100%" height="100%" fill="white"/>']
    for index, (heads, rows, column) in enumerate(plots):
        out += curve(heads, rows, column, 20 + index % 3 * 315, 30 + index // 3 * 210)
    return "\n".join(out) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", default=run.TOP / "target/release/libdqlitepy.so", type=Path)
    parser.add_argument("--megabytes", default="10,30,100,300,1000")
    parser.add_argument("--connections", default="1,10,50,100,200,500")
    parser.add_argument("--nodes", default="1,2,3,5,7,9")
    parser.add_argument("--bytes", default="100,1000,10000,100000,1000000,10000000")
    parser.add_argument("--rows", default="1,10,100,1000,10000,100000,1000000")
    parser.add_argument("--settings-at", default="200", metavar="MEGABYTES")
    parser.add_argument("--tmpfs", action="store_true", help="instead of the disk")
    parser.add_argument("--out", default=run.TOP / "docs/performance", type=Path)
    given = parser.parse_args()
    run.build_driver()
    place = run.Place(None, given.library)
    where = "tmpfs" if given.tmpfs else "disk"
    try:
        library = place.base / given.library.name
        sizes = size_table(records(place, library, "growth", place.fresh(where, "size"), *given.megabytes.split(",")))
        place.fresh(where, "size")
        connections = connection_table(
            records(place, library, "connections", place.fresh(where, "connections"), *given.connections.split(",")))
        clusters = cluster_table(
            records(place, library, "cluster", place.fresh(where, "cluster"), *given.nodes.split(",")))
        values = value_table(records(place, library, "values", place.fresh(where, "values"), *given.bytes.split(",")))
        results = result_table(
            records(place, library, "results", place.fresh(where, "results"), *given.rows.split(",")))
        settings = [setting_row(place, library, where, name, given.settings_at) for name in SETTINGS]
    except (run.Failed, subprocess.SubprocessError) as error:
        sys.exit(f"growth: {error}")
    finally:
        place.clean()
    about = {**run.machine(), "where": where}
    about["load"] += " to %.2f" % os.getloadavg()[0]
    given.out.mkdir(parents=True, exist_ok=True)
    given.out.joinpath("growth.md").write_text("\n".join([
        "# Growth", "", "Written by `make bench-growth`.", "", *[f"* {key}: {value}" for key, value in about.items()], "",
        "With the size of the database, on one node, filled by statements of 1 MB; then another node joins, under writes:", "", markdown(SIZE, sizes), "",
        "With the number of connections from outside, one of them in use at a time:", "", markdown(CONNECTIONS, connections),
        "", "With the number of nodes, all in this one process and on its processors, the fourth and further ones stand-bys and",
        "spares unless more voters are asked for; `join` is what the last ones took, each:", "", markdown(CLUSTER, clusters),
        "", "With the size of one value, a text:", "", markdown(VALUE, values),
        "", "With the size of a result, rows of four columns to JSON, all of it in memory:", "", markdown(RESULT, results),
        "", f"With the settings that bend the curves of size, {given.settings_at} MB of text and 6000 writes of 4 KB all over it; the first two numbers",
        "are `threshold` and `trailing` of `dqlitepy_node_set_snapshot_params`:", "", markdown(SETTING, settings),
        "", "![curves](growth.svg)", ""]))
    given.out.joinpath("growth.svg").write_text(svg(sizes, connections, clusters, values, results))


if __name__ == "__main__":
    main()
