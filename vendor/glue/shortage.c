/*
 * What the engine cannot take back when memory or descriptors end: what is committed is applied when there is memory again, the
 * index of the WAL changes hands without an address more, and a segment of the log waits for a descriptor.
 *
 * Stands in for mmap and mremap in vfs.c where a write transaction begins and ends, for VfsPoll in leader.c, for
 * raft_aligned_alloc in uv_segment.c, for the call of raft's that applies an entry, and for what uv_finalize.c opens files with.
 */
#include <pthread.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "internal.h"

#include "command.h"
#include "leader.h"
#include "raft.h"
#include "raft/uv_fs.h"
#include "vfs.h"

/* ---- the index ---- */

enum { LARGEST_MAP = 256 << 10 };

/*
 * The engine maps what is to be there to a new place and then moves it to the old one. Without an address for the new place it
 * is mapped over these, and then once more over the old place instead of being moved.
 */
static char spare[LARGEST_MAP] __attribute__((aligned(LARGEST_MAP)));
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* What lies over them, with the mutex held. */
static struct {
	int prot, flags, fd;
	off_t offset;
} mapped;

void *glue_shm_map(void *at, size_t size, int prot, int flags, int fd, off_t offset);
void *glue_shm_map(void *at, size_t size, int prot, int flags, int fd, off_t offset)
{
	void *region = mmap(at, size, prot, flags, fd, offset);
	if (region != MAP_FAILED || size > sizeof spare) {
		return region;
	}
	pthread_mutex_lock(&mutex);
	region = mmap(spare, size, prot, flags | MAP_FIXED, fd, offset);
	if (region == MAP_FAILED) {
		pthread_mutex_unlock(&mutex);
		return region;
	}
	mapped.prot = prot;
	mapped.flags = flags;
	mapped.fd = fd;
	mapped.offset = offset;
	return region;
}

void *glue_shm_remap(void *region, size_t had, size_t size, int flags, ...);
void *glue_shm_remap(void *region, size_t had, size_t size, int flags, ...)
{
	va_list rest;
	va_start(rest, flags);
	void *place = va_arg(rest, void *);
	va_end(rest);
	if (region != spare) {
		return mremap(region, had, size, flags, place);
	}
	void *over = mmap(place, size, mapped.prot, mapped.flags | MAP_FIXED, mapped.fd, mapped.offset);
	mmap(spare, had, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	pthread_mutex_unlock(&mutex);
	return over;
}

/* ---- what is committed ---- */

/* Others may take it between the look and the use, so one look that finds some says little. */
enum { LARGE = 256 << 10, PAUSE_MS = 5, ONCE_MORE_MS = 100, LONGEST_MS = 10000, SPARE = 1 << 20 };

/* False if it is not for want of memory that it failed, or there has been none for too long. */
static bool waits_for_memory(size_t size, unsigned *waited_ms)
{
	bool there_is = glue_memory_has(size);
	unsigned most = there_is ? ONCE_MORE_MS : LONGEST_MS;
	nanosleep(&(struct timespec){ .tv_nsec = PAUSE_MS * 1000 * 1000 }, NULL);
	*waited_ms += PAUSE_MS;
	return *waited_ms < most;
}

/*
 * A transaction is sent only if there is memory for what follows: to write it to the log, and to apply it. Called from leader.c in
 * place of command__encode.
 */
int glue_encode(struct exec *exec, const struct command_frames *frames, struct raft_buffer *buf);
int glue_encode(struct exec *exec, const struct command_frames *frames, struct raft_buffer *buf)
{
	int rv = command__encode(COMMAND_FRAMES, frames, buf);
	if (rv == 0 && buf->len >= LARGE && !glue_memory_has(2 * buf->len + SPARE)) {
		raft_free(buf->base);
		rv = DQLITE_NOMEM;
	}
	if (rv != DQLITE_NOMEM) {
		return rv;
	}
	sqlite3_set_errmsg(exec->leader->conn, SQLITE_NOMEM, "out of memory for the transaction, of which nothing was kept");
	return RAFT_ERROR;
}

/* An entry that is committed cannot be left out: all others have it. */
int glue_fsm_apply(struct raft *raft, const struct raft_buffer *buf);
int glue_fsm_apply(struct raft *raft, const struct raft_buffer *buf)
{
	int rv = raft->fsm->apply(raft->fsm, buf);
	for (unsigned waited = 0; rv != 0 && rv != RAFT_BUSY && waits_for_memory(2 * buf->len + SPARE, &waited);) {
		rv = raft->fsm->apply(raft->fsm, buf);
	}
	return rv;
}

/* The log's writer goes for good, and its node with it, if there is no buffer for what it was asked to write. */
void *glue_log_buffer(size_t alignment, size_t size);
void *glue_log_buffer(size_t alignment, size_t size)
{
	void *buffer = raft_aligned_alloc(alignment, size);
	for (unsigned waited = 0; buffer == NULL && waits_for_memory(size, &waited);) {
		buffer = raft_aligned_alloc(alignment, size);
	}
	return buffer;
}

/* What SQLite has committed and the engine does not see is sent to nobody. */
int glue_vfs_poll(sqlite3 *conn, struct vfsTransaction *transaction);
int glue_vfs_poll(sqlite3 *conn, struct vfsTransaction *transaction)
{
	int rv = VfsPoll(conn, transaction);
	for (unsigned waited = 0; rv == SQLITE_NOMEM && waits_for_memory(SPARE, &waited);) {
		rv = VfsPoll(conn, transaction);
	}
	return rv;
}

/* ---- a segment's final name ---- */

/* False if it is not for want of a descriptor that it failed, or there has been none for too long. */
static bool waits_for_descriptor(const char *reason, unsigned *waited_ms)
{
	if (strstr(reason, uv_strerror(UV_EMFILE)) == NULL && strstr(reason, uv_strerror(UV_ENFILE)) == NULL) {
		return false;
	}
	nanosleep(&(struct timespec){ .tv_nsec = PAUSE_MS * 1000 * 1000 }, NULL);
	*waited_ms += PAUSE_MS;
	return *waited_ms < LONGEST_MS;
}

/* A node whose log has a segment without its final name is lost (storage.c). These are called on libuv's threads. */
int glue_truncate_and_rename(const char *dir, size_t size, const char *from, const char *to, char *reason);
int glue_truncate_and_rename(const char *dir, size_t size, const char *from, const char *to, char *reason)
{
	int rv = UvFsTruncateAndRenameFile(dir, size, from, to, reason);
	for (unsigned waited = 0; rv != 0 && waits_for_descriptor(reason, &waited);) {
		rv = UvFsTruncateAndRenameFile(dir, size, from, to, reason);
	}
	return rv;
}

int glue_sync_dir(const char *dir, char *reason);
int glue_sync_dir(const char *dir, char *reason)
{
	int rv = UvFsSyncDir(dir, reason);
	for (unsigned waited = 0; rv != 0 && waits_for_descriptor(reason, &waited);) {
		rv = UvFsSyncDir(dir, reason);
	}
	return rv;
}
