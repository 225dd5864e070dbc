/*
 * How much of the log stays behind a snapshot: in memory, on the disk, and what of it a start reads.
 *
 * The engine counts entries, 8192 of them, be they 4 KB or 1 MB: up to 8 GB on the disk, which every start read and summed
 * and kept in memory until the next snapshot, although the snapshot holds all of it. What is of use is a piece for members
 * that are a little behind, and on the disk whatever leads from the snapshot before to this one, which would have to make up
 * for it. If it was set how many entries are to stay, so many do.
 */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "internal.h"

#include "raft.h"
#include "raft/log.h"
#include "raft/uv.h"

/* As much as the snapshot, within these bounds. */
enum { LEAST_TRAILING = 64 << 20, MOST_TRAILING = 256 << 20 };

uint64_t glue_trailing_bytes(uint64_t snapshot)
{
	return snapshot < LEAST_TRAILING ? LEAST_TRAILING : snapshot > MOST_TRAILING ? MOST_TRAILING : snapshot;
}

/* In place of raft's number of entries where it puts a snapshot on the disk, and removes segments. */
unsigned glue_trailing_on_disk(struct raft *raft, raft_index snapshot);
unsigned glue_trailing_on_disk(struct raft *raft, raft_index snapshot)
{
	raft_index before = logSnapshotIndex(raft->log);
	if (glue_options_of(raft)->snapshot_threshold != 0 || before >= snapshot ||
	    snapshot - before > raft->snapshot.trailing) {
		return raft->snapshot.trailing;
	}
	return (unsigned)(snapshot - before);
}

static uint64_t size_of(const char *dir, const char *name)
{
	struct stat found;
	char path[PATH_MAX];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	return stat(path, &found) == 0 ? (uint64_t)found.st_size : 0;
}

static uint64_t size_of_snapshot(const char *dir, const struct uvSnapshotInfo *snapshot)
{
	char name[UV__FILENAME_LEN];
	snprintf(name, sizeof name, UV__SNAPSHOT_TEMPLATE, snapshot->term, snapshot->index, snapshot->timestamp);
	return size_of(dir, name);
}

/* How many of the first segments, which are closed, a start with this snapshot does without. */
static size_t superfluous(const char *dir,
			  const struct uvSnapshotInfo *snapshot,
			  const struct uvSegmentInfo *segments,
			  size_t n)
{
	struct raft *raft = glue_raft_here();
	bool counted = glue_options_of(raft)->snapshot_threshold != 0;
	uint64_t bytes = 0, limit = glue_trailing_bytes(size_of_snapshot(dir, snapshot));
	size_t first = 0;
	while (first < n && !segments[first].is_open) {
		first++;
	}
	/* The open ones do not say where they begin: that is behind the last closed one, whatever it holds. */
	first -= first > 0;
	while (first > 0 && segments[first].first_index > snapshot->index) {
		first--;
	}
	for (; first > 0; first--) {
		const struct uvSegmentInfo *next = &segments[first - 1];
		bytes += size_of(dir, next->filename);
		if (counted ? next->end_index + raft->snapshot.trailing <= snapshot->index : bytes > limit) {
			break;
		}
	}
	return first;
}

/* Stands in for UvList in uv.c, which asks for what it is to load at a start. */
int glue_list_to_load(const char *dir,
		      struct uvSnapshotInfo *snapshots[],
		      size_t *n_snapshots,
		      struct uvSegmentInfo *segments[],
		      size_t *n_segments,
		      char *errmsg);
int glue_list_to_load(const char *dir,
		      struct uvSnapshotInfo *snapshots[],
		      size_t *n_snapshots,
		      struct uvSegmentInfo *segments[],
		      size_t *n_segments,
		      char *errmsg)
{
	int rv = UvList(dir, snapshots, n_snapshots, segments, n_segments, errmsg);
	if (rv == 0) {
		rv = glue_undo_truncation(dir, *segments, n_segments, errmsg);
	}
	if (rv == 0 && *n_snapshots > 0) {
		size_t without = superfluous(dir, &(*snapshots)[*n_snapshots - 1], *segments, *n_segments);
		*n_segments -= without;
		memmove(*segments, *segments + without, *n_segments * sizeof **segments);
	}
	return rv;
}
