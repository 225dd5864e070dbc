/* Snapshots: when they are due, how they are written and read, what if one is not installed. */
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

#include "raft.h"
#include "raft/log.h"
#include "raft/uv.h"
#include "raft/uv_fs.h"
#include "raft/uv_os.h"
#include "lib/assert.h"
#include "vfs.h"

/*
 * The engine writes a snapshot of everything after each 1024 entries, be they 4 KB or 1 MB: a gigabyte on the disk for every
 * 4 MB that is written, or a gigabyte of log in memory and to be read by the next start. So unless it was set how many
 * entries are to lie between two, the log is weighed against what a snapshot would hold: a snapshot for less than a quarter
 * of it waits, and one for as much again does not.
 */
enum { SHARE = 4 };
static const uint64_t MUCH = 256 << 20, SMALL = 64 << 20;

static bool is_due(struct raft *raft)
{
	raft_index last = raft->log->snapshot.last_index, entries = raft->last_applied - last;
	if (glue_options_of(raft)->snapshot_threshold != 0) {
		return entries >= raft->snapshot.threshold;
	}
	struct glue_growth *growth = glue_growth_of(raft);
	if (growth->snapshot != last || growth->counted > raft->last_applied) {
		*growth = (struct glue_growth){ last, last, 0, growth->taken_at, growth->size };
	}
	while (growth->counted < raft->last_applied) {
		const struct raft_entry *entry = logGet(raft->log, ++growth->counted);
		growth->bytes += entry != NULL ? entry->buf.len : 0;
	}
	uint64_t as_much = growth->size > SMALL ? growth->size : SMALL;
	uint64_t worth_it = growth->size / SHARE < MUCH ? growth->size / SHARE : MUCH;
	if (entries < raft->snapshot.threshold) {
		return growth->bytes >= as_much;
	}
	/* The one before it and the log have to make up for a snapshot that cannot be read: what trails must reach so far. */
	raft_index most = raft->snapshot.trailing / 2;
	return growth->bytes >= worth_it || entries >= most;
}

/* In place of the engine's comparison of entries in replication.c, whenever entries were applied. */
bool glue_snapshot_is_due(struct raft *raft);
bool glue_snapshot_is_due(struct raft *raft)
{
	bool due = is_due(raft);
	if (due) {
		glue_growth_of(raft)->taken_at = 0; /* its databases are counted anew, also if this is the second attempt */
	}
	return due;
}

/* Stands in for VfsAcquireSnapshot in fsm.c, once for each database. */
int glue_fsm_acquire(sqlite3 *conn, struct vfsSnapshot *snapshot);
int glue_fsm_acquire(sqlite3 *conn, struct vfsSnapshot *snapshot)
{
	int rv = VfsAcquireSnapshot(conn, snapshot);
	struct raft *raft = glue_raft_here();
	struct glue_growth *growth = glue_growth_of(raft);
	if (rv == SQLITE_OK) {
		growth->size = growth->taken_at == raft->last_applied ? growth->size : 0;
		growth->size += (uint64_t)snapshot->page_count * snapshot->page_size;
		growth->taken_at = raft->last_applied;
	}
	return rv;
}

/*
 * Stands in for UvFsReadFile and UvFsReadCompressedFile in uv_snapshot.c. The engine reads a snapshot as its option says
 * that snapshots are to be written now: after the option was changed, a node could not read its own. The file itself says
 * what it is.
 */
static bool is_compressed(const char *dir, const char *name)
{
	static const unsigned char lz4_frame[] = { 0x04, 0x22, 0x4d, 0x18 };
	unsigned char start[sizeof lz4_frame];
	char path[PATH_MAX];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		return false;
	}
	ssize_t size = read(fd, start, sizeof start);
	close(fd);
	return size == (ssize_t)sizeof start && memcmp(start, lz4_frame, sizeof start) == 0;
}

int glue_read_snapshot(const char *dir, const char *name, struct raft_buffer *buf, char *errmsg);
int glue_read_snapshot(const char *dir, const char *name, struct raft_buffer *buf, char *errmsg)
{
	return is_compressed(dir, name) ? UvFsReadCompressedFile(dir, name, buf, errmsg)
					: UvFsReadFile(dir, name, buf, errmsg);
}

/*
 * Stands in for read in uv_fs.c: a compressed file is read in pieces of 4 MB, and the disk stood still while one was
 * decompressed.
 */
ssize_t glue_read_on(int fd, void *room, size_t size);
ssize_t glue_read_on(int fd, void *room, size_t size)
{
	off_t at = lseek(fd, 0, SEEK_CUR);
	posix_fadvise(fd, at + (off_t)size, (off_t)size, POSIX_FADV_WILLNEED);
	return read(fd, room, size);
}

/* The loop of the node whose snapshot this thread writes, and what of it the disk was not told to write yet. */
static __thread uv_loop_t *writing;
static __thread size_t waiting;

static uv_loop_t *loop_of(const char *dir)
{
	/* The engine always passes the name that stands in this very struct. */
	return ((const struct uv *)(dir - offsetof(struct uv, dir)))->loop;
}

/*
 * Stand in for UvFsMakeFile and UvFsMakeCompressedFile in uv_snapshot.c. A stop waited until all of a snapshot was on the
 * disk, which the next start can do without: it has the one before and the log. Now it is given up.
 */
int glue_make_file(const char *dir, const char *name, struct raft_buffer *bufs, unsigned n, char *errmsg);
int glue_make_file(const char *dir, const char *name, struct raft_buffer *bufs, unsigned n, char *errmsg)
{
	writing = loop_of(dir);
	int rv = UvFsMakeFile(dir, name, bufs, n, errmsg);
	writing = NULL;
	return rv;
}

int glue_make_compressed_file(const char *dir, const char *name, struct raft_buffer *bufs, unsigned n, char *errmsg);
int glue_make_compressed_file(const char *dir, const char *name, struct raft_buffer *bufs, unsigned n, char *errmsg)
{
	writing = loop_of(dir);
	int rv = UvFsMakeCompressedFile(dir, name, bufs, n, errmsg);
	writing = NULL;
	return rv;
}

/*
 * All of a snapshot at once, when it is synced at its end, keeps the disk from everything else: what was committed meanwhile
 * waited for up to a second at 4 GB. So it goes there as it is written, and this thread waits for it.
 */
enum { AT_ONCE = 8 << 20 };

static void send_to_disk(uv_file fd, size_t written)
{
	waiting += written;
	if (waiting >= AT_ONCE) {
		sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE);
		waiting = 0;
	}
}

enum { PARTS = 256, PART = 1 << 20 };

/*
 * Stands in for UvOsWrite in uv_fs.c, in parts: the kernel writes no more than 2 GiB at once, and a snapshot from the leader
 * is one buffer. The sum may not fit an int; the callers compare it with that of the buffers, cut in the same way.
 */
int glue_os_write(uv_file fd, const uv_buf_t bufs[], unsigned n, int64_t offset);
int glue_os_write(uv_file fd, const uv_buf_t bufs[], unsigned n, int64_t offset)
{
	size_t sum = 0, begun = 0; /* bytes, of all and of the first buffer that is left */
	for (unsigned i = 0; i < n;) {
		uv_buf_t parts[PARTS];
		size_t asked = sum;
		unsigned count = 0;
		for (; i < n && count < PARTS; count++) {
			size_t left = bufs[i].len - begun, part = left < PART ? left : PART;
			parts[count] = uv_buf_init(bufs[i].base + begun, (unsigned)part);
			asked += part;
			begun = part < left ? begun + part : 0;
			i += part == left;
		}
		if (writing != NULL && glue_is_stopping(writing)) {
			return UV_ECANCELED;
		}
		int rv = UvOsWrite(fd, parts, count, offset < 0 ? offset : offset + (int64_t)sum);
		if (rv < 0) {
			return rv;
		}
		sum += (size_t)rv;
		if (writing != NULL) {
			send_to_disk(fd, (size_t)rv);
		}
		if (sum < asked) {
			/* A full disk, or a limit. Cut to an int, the sum may look like that of nothing or of all. */
			return UV_ENOSPC;
		}
	}
	return (int)sum;
}

/* Stands in for VfsRestore in fsm.c. */
int glue_vfs_restore(sqlite3 *conn, const struct vfsSnapshot *snapshot);
int glue_vfs_restore(sqlite3 *conn, const struct vfsSnapshot *snapshot)
{
	int rv = VfsRestore(conn, snapshot);
	struct glue_growth *growth = glue_growth_of(glue_raft_here());
	uint64_t size = (uint64_t)snapshot->page_count * snapshot->page_size;
	growth->size = growth->size > size ? growth->size : size;
	if (rv != SQLITE_OK) {
		/* raft counts the snapshot as installed: it would apply nothing more, and say nothing. From the disk it works. */
		dqlite_fail("the snapshot from the leader could be installed; starting the node again installs it", __FILE__,
			    __LINE__, __func__);
	}
	return rv;
}
