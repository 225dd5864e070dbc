/*
 * Stands in for UvFsReadFile and UvFsReadCompressedFile in uv_snapshot.c. The engine reads a snapshot as its option says
 * that snapshots are to be written now: after the option was changed, a node could not read its own. The file itself says
 * what it is.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "raft.h"
#include "raft/uv_fs.h"
#include "lib/assert.h"
#include "vfs.h"

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
 * Stands in for VfsRestore in fsm.c, which makes the new pages before it gives the old ones back. They have no use any more:
 * the log that led to them is gone. So first everything but one page goes.
 */
int glue_vfs_restore(sqlite3 *conn, const struct vfsSnapshot *snapshot);
int glue_vfs_restore(sqlite3 *conn, const struct vfsSnapshot *snapshot)
{
	struct vfsSnapshot start = *snapshot;
	start.page_count = snapshot->page_count > 0 ? 1 : 0;
	int rv = VfsRestore(conn, &start);
	rv = rv != SQLITE_OK ? rv : VfsRestore(conn, snapshot);
	if (rv != SQLITE_OK) {
		/* raft counts the snapshot as installed: it would apply nothing more, and say nothing. From the disk it works. */
		dqlite_fail("the snapshot from the leader could be installed; starting the node again installs it", __FILE__,
			    __LINE__, __func__);
	}
	return rv;
}
