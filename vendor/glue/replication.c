/*
 * Stands in for progressMaybeDecrement in replication.c. When a follower rejects a probe, because its log is shorter than the
 * leader thought, the engine steps back but sends the next probe only with the next heartbeat: half a second for each
 * rejection, after every election and in every join. The answer has come, so the next probe may go at once.
 */
#include <string.h>

#include "raft.h"
#include "raft/log.h"
#include "raft/progress.h"

#include "internal.h"

bool glue_progress_decrement(struct raft *raft, unsigned i, raft_index rejected, raft_index last_index);
bool glue_progress_decrement(struct raft *raft, unsigned i, raft_index rejected, raft_index last_index)
{
	bool stepped_back = progressMaybeDecrement(raft, i, rejected, last_index);
	if (stepped_back) {
		raft->leader_state.progress[i].last_send = 0;
	}
	return stepped_back;
}

/* What one message may hold. Without a limit it is all that a member lacks, and heartbeats wait behind it. */
enum { CHUNK_BYTES = 4 << 20, CHUNK_ENTRIES = 10000 };

/*
 * Stands in for logAcquire in replication.c, which takes all entries from `index` on: for a member that was away that can be
 * more than it accepts in one message, and until its first answer all of it would be sent again with every heartbeat.
 */
int glue_log_acquire(struct raft_log *log, raft_index index, struct raft_entry *entries[], unsigned *n);
int glue_log_acquire(struct raft_log *log, raft_index index, struct raft_entry *entries[], unsigned *n)
{
	int rv = logAcquire(log, index, entries, n);
	size_t bytes = 0;
	unsigned fit = 0;
	while (rv == 0 && fit < *n && fit < CHUNK_ENTRIES && (fit == 0 || bytes + (*entries)[fit].buf.len <= CHUNK_BYTES)) {
		bytes += (*entries)[fit++].buf.len;
	}
	/* A follower takes what it was sent, also from a leader that knows no limit: it has counted it already. */
	if (rv != 0 || fit == *n || !glue_leads_here()) {
		return rv;
	}
	struct raft_entry *rest = raft_calloc(*n - fit, sizeof *rest);
	if (rest == NULL) {
		logRelease(log, index, *entries, *n);
		return RAFT_NOMEM;
	}
	memcpy(rest, *entries + fit, (*n - fit) * sizeof *rest);
	logRelease(log, index + fit, rest, *n - fit);
	*n = fit;
	return 0;
}
