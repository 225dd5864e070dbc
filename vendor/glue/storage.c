/*
 * What raft does not see to when its disk fails it, or the process ends in the middle: the engine goes on with a log in memory
 * that the disk does not have, or has twice. A node that cannot keep what it acknowledges is lost; starting it again goes on
 * from what the disk has.
 */
#include <stdio.h>
#include <string.h>

#include "internal.h"

#include "raft/uv.h"
#include "raft/uv_fs.h"

void dqlite_fail(const char *, const char *, unsigned, const char *) __attribute__((noreturn));

/*
 * raft has emptied its log for a snapshot of the leader's before that is stored. If it is not, raft counts it as installed all the
 * same: it would acknowledge what comes behind it and apply nothing. Called from replication.c.
 */
void glue_not_installed(void);
void glue_not_installed(void)
{
	dqlite_fail("the snapshot from the leader could be stored (is the disk full?); starting the node again gets it again",
		    __FILE__, __LINE__, __func__);
}

/* A segment without its final name comes behind all that have one, whatever it holds. Called from uv_finalize.c. */
void glue_not_finished(void);
void glue_not_finished(void)
{
	dqlite_fail("a segment of the log could get its final name; starting the node again does that", __FILE__, __LINE__,
		    __func__);
}

/* raft forgets what it asked for, and its storage does not. Called from uv_append.c. */
void glue_not_written(void);
void glue_not_written(void)
{
	dqlite_fail("the log could be written; starting the node again goes on from what it holds", __FILE__, __LINE__, __func__);
}

/* Stands in for convertToUnavailable in recv.c and tick.c: raft does nothing any more then, and says so to nobody. */
void glue_convert_to_unavailable(struct raft *raft);
void glue_convert_to_unavailable(struct raft *raft)
{
	char reason[RAFT_ERRMSG_BUF_SIZE + 64];
	const char *why = raft->io->errmsg[0] != '\0' ? raft->io->errmsg : "without a reason, memory or descriptors may be short";
	snprintf(reason, sizeof reason, "raft could go on (%s); start the node again", why);
	dqlite_fail(reason, __FILE__, __LINE__, __func__);
}

/*
 * A truncation within a segment writes what stays of it as a new one, and removes the whole one, while nothing else is written.
 * With both there it was cut off. Of a log with both nothing could be loaded, so it is as if it had not begun: the leader asks
 * for it again.
 */
int glue_undo_truncation(const char *dir, struct uvSegmentInfo *segments, size_t *n, char *errmsg)
{
	size_t kept = 0;
	for (size_t i = 0; i < *n; i++) {
		struct uvSegmentInfo *last = kept > 0 ? &segments[kept - 1] : NULL;
		if (!CURE_HALVES || last == NULL || last->is_open || segments[i].is_open ||
		    last->first_index != segments[i].first_index) {
			segments[kept++] = segments[i];
			continue;
		}
		struct uvSegmentInfo half = segments[i];
		if (half.end_index > last->end_index) {
			half = *last;
			*last = segments[i];
		}
		if (UvFsRemoveFile(dir, half.filename, errmsg) != 0) {
			return RAFT_IOERR;
		}
	}
	*n = kept;
	return 0;
}

/* Stands in for UvSnapshotLoad in uv.c, whose reasons, where there are any, rarely say of which file. */
int glue_snapshot_load(struct uv *uv, struct uvSnapshotInfo *meta, struct raft_snapshot *snapshot, char *errmsg);
int glue_snapshot_load(struct uv *uv, struct uvSnapshotInfo *meta, struct raft_snapshot *snapshot, char *errmsg)
{
	char why[RAFT_ERRMSG_BUF_SIZE] = "";
	int rv = UvSnapshotLoad(uv, meta, snapshot, why);
	if (rv != 0) {
		snprintf(errmsg, RAFT_ERRMSG_BUF_SIZE, "load %s and the file of that name without .meta: %.80s", meta->filename,
			 why[0] != '\0' ? why : "the content is damaged");
	}
	return rv;
}

/*
 * The end of an open segment that cannot be read is taken for a write that a crash cut off: nobody was told that it is kept.
 * If there is more than zeros behind it, it may as well be damage, to what was acknowledged. Called from uv_segment.c.
 */
void glue_left_trail(const char *segment, size_t offset);
void glue_left_trail(const char *segment, size_t offset)
{
	const struct glue_options *options = glue_options_of(glue_raft_here());
	char what[UV__FILENAME_LEN + 64];
	snprintf(what, sizeof what, "%s from byte %zu on", segment, offset);
	options->damaged(options->data, what);
}
