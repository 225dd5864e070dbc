"""dataset.py OUT: what is installed on this machine, one file a line, tab-separated: id, package, path, size, KiB, time of
change, executable, MD5. NULL is \\N. The list and the checksums are those of Debian's package database; elsewhere the
files below /usr are read. The same machine gives the same data."""

import glob
import hashlib
import itertools
import os
import sys
import time

MOST_ROWS = 40_000


def debian_files():
    for listing in sorted(glob.glob("/var/lib/dpkg/info/*.md5sums")):
        package = os.path.basename(listing).removesuffix(".md5sums").split(":")[0]
        with open(listing, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                checksum, path = line.rstrip("\n").split("  ", 1)
                yield package, "/" + path, checksum


def other_files():
    for folder, folders, names in os.walk("/usr"):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and os.access(path, os.R_OK):
                with open(path, "rb") as f:
                    yield folder.split("/")[2], path, hashlib.file_digest(f, "md5").hexdigest()


def row(number, package, path, checksum):
    try:
        info = os.stat(path)
        size, kib = str(info.st_size), repr(info.st_size / 1024)
        changed = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(info.st_mtime))
        executable = str(info.st_mode >> 6 & 1)
    except OSError:  # removed after its installation, as documentation in containers is
        size = kib = changed = executable = r"\N"
    return "\t".join((str(number), package, path, size, kib, changed, executable, checksum))


def plain(entry):
    return all(c.isprintable() for text in entry for c in text)


entries = itertools.islice(filter(plain, itertools.chain(debian_files() or ())), MOST_ROWS)
entries = list(entries) or list(itertools.islice(filter(plain, other_files()), MOST_ROWS))
with open(sys.argv[1], "w", encoding="utf-8") as out:
    for number, entry in enumerate(entries, 1):
        out.write(row(number, *entry) + "\n")
print(f"{len(entries)} files of {len({e[0] for e in entries})} packages")
