/*
 * Stands in for UvFsAllocateFile where the engine prepares the next segment of its log.
 *
 * Space that was only allocated is noted as unwritten, and each write into it has to change the file system's own records,
 * which is another write to the disk and may wait: so a write that must not wait (RWF_NOWAIT) is refused, and the engine
 * takes it to a thread. Written zeros need none of this: an INSERT takes a third less time. They cost writing the segment
 * twice, in the background, and who fills segments quickly lives by the disk's throughput: there they are left out.
 */
#include <fcntl.h>
#include <linux/magic.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "internal.h"

#include "raft/uv.h"
#include "raft/uv_fs.h"
#include "raft/uv_os.h"

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

enum { PIECE = 256 << 10 };
static const uint64_t QUICKLY_NS = 100 * 1000 * 1000; /* 8 MiB in this time */

/* File systems that write in place; with the others (btrfs, tmpfs) zeros would be in vain. */
static bool writes_in_place(int fd)
{
	struct statfs fs;
	return fstatfs(fd, &fs) == 0 && (fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == XFS_SUPER_MAGIC);
}

/* False if the disk refused. */
static bool write_zeros(int segment, size_t size)
{
	static const char zeros[PIECE];
	char path[32];
	/* The engine's own descriptor waits for the disk with each write; and the name may be another file's by now. */
	snprintf(path, sizeof path, "/proc/self/fd/%d", segment);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0) {
		return true; /* no /proc here: it is still allocated, that is all */
	}
	ssize_t n = 1;
	for (size_t done = 0; done < size && n > 0; done += (size_t)n) {
		size_t left = size - done;
		n = pwrite(fd, zeros, left < PIECE ? left : PIECE, (off_t)done);
	}
	bool written = n > 0 && fdatasync(fd) == 0;
	/* The engine passes the page cache by. */
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	close(fd);
	return written;
}

int glue_allocate_segment(const char *dir, const char *name, size_t size, uv_file *fd, bool fallocate, char *errmsg);
int glue_allocate_segment(const char *dir, const char *name, size_t size, uv_file *fd, bool fallocate, char *errmsg)
{
	int rv = UvFsAllocateFile(dir, name, size, fd, fallocate, errmsg);
	if (rv != 0 || !fallocate) {
		return rv;
	}
	/* The engine always passes the name that stands in this very struct. */
	const struct uv *uv = (const struct uv *)(dir - offsetof(struct uv, dir));
	uint64_t *last = glue_last_segment_of(uv->loop), now = uv_hrtime();
	/* At its start a node prepares several, and the first write should not wait for any. */
	bool quickly = *last == 0 || now - *last < QUICKLY_NS;
	*last = now;
	if (quickly || !writes_in_place(*fd) || write_zeros(*fd, size)) {
		return 0;
	}
	/* An error that the disk reported for a zero could be reported once more, for the log. */
	UvOsClose(*fd);
	UvFsRemoveFile(dir, name, errmsg);
	return UvFsAllocateFile(dir, name, size, fd, fallocate, errmsg);
}
