/*
 * Stands in for progressMaybeDecrement in replication.c. When a follower rejects a probe, because its log is shorter than the
 * leader thought, the engine steps back but sends the next probe only with the next heartbeat: half a second for each
 * rejection, after every election and in every join. The answer has come, so the next probe may go at once.
 */
#include <string.h>

#include "raft.h"
#include "raft/configuration.h"
#include "raft/log.h"
#include "raft/progress.h"
#include "raft/replication.h"

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

/*
 * Stand in for progressShouldReplicate, progressToSnapshot and logAcquire in replication.c, where a leader decides what to send
 * and takes it from its log. Of a member in the state of probing it does not know which entries it has. Such a member is sent
 * none: its answer to an empty message tells, and then it gets what it lacks, once. The engine would send all of it at every
 * heartbeat until the first answer, and other messages wait behind that.
 *
 * Of the rest there is a limit to what goes into one message, which otherwise is all that a member lacks: more than it
 * accepts where it was away for long.
 */
enum { CHUNK_BYTES = 4 << 20, CHUNK_ENTRIES = 10000 };

/* What the next entries are taken for. Others than a leader's messages, its disk and a follower's, get all. */
static __thread enum { NO_MESSAGE, PROBE, MESSAGE } taken_for;

bool glue_should_replicate(struct raft *raft, unsigned i);
bool glue_should_replicate(struct raft *raft, unsigned i)
{
	bool should = progressShouldReplicate(raft, i);
	taken_for = !should ? NO_MESSAGE : progressState(raft, i) == PROGRESS__PROBE ? PROBE : MESSAGE;
	return should;
}

void glue_to_snapshot(struct raft *raft, unsigned i);
void glue_to_snapshot(struct raft *raft, unsigned i)
{
	taken_for = NO_MESSAGE;
	progressToSnapshot(raft, i);
}

/* Gives back all but those that one message holds. */
static int cut(struct raft_log *log, raft_index index, struct raft_entry *entries[], unsigned *n)
{
	size_t bytes = 0;
	unsigned fit = 0;
	while (fit < *n && fit < CHUNK_ENTRIES && (fit == 0 || bytes + (*entries)[fit].buf.len <= CHUNK_BYTES)) {
		bytes += (*entries)[fit++].buf.len;
	}
	if (fit == *n) {
		return 0;
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

int glue_log_acquire(struct raft_log *log, raft_index index, struct raft_entry *entries[], unsigned *n);
int glue_log_acquire(struct raft_log *log, raft_index index, struct raft_entry *entries[], unsigned *n)
{
	int message = taken_for;
	taken_for = NO_MESSAGE;
	*entries = NULL;
	*n = 0;
	if (message == PROBE) {
		return 0;
	}
	int rv = logAcquire(log, index, entries, n);
	return rv == 0 && message == MESSAGE ? cut(log, index, entries, n) : rv;
}

/*
 * A member may have entries that stand behind those it was asked about and that are not the leader's: what it wrote itself
 * when it led, and nobody else has. go-dqlite's nodes say how far their log goes, not how far it is known to be the same, and
 * with the leader's word that so much is committed they would apply what is theirs alone. (Ours answer exactly; LINES in
 * build.rs.) So the leader believes them no more than it has sent, and tells them of no more.
 *
 * glue_replication_update stands in for replicationUpdate in recv_append_entries_result.c.
 */
int glue_replication_update(struct raft *raft,
			    const struct raft_server *server,
			    const struct raft_append_entries_result *said);
int glue_replication_update(struct raft *raft,
			    const struct raft_server *server,
			    const struct raft_append_entries_result *said)
{
	struct raft_append_entries_result result = *said;
	raft_id id = server->id;
	unsigned i = configurationIndexOf(&raft->configuration, id);
	int state = progressState(raft, i);
	raft_index sent = progressNextIndex(raft, i) - 1;
	bool agrees = result.rejected == 0 && state != PROGRESS__SNAPSHOT;
	if (agrees && result.last_log_index > sent) {
		result.last_log_index = sent;
	}
	/* Where the logs are the same is known now, also if it was before. */
	bool found = agrees && state == PROGRESS__PROBE;
	if (found) {
		progressToPipeline(raft, i);
	}
	int rv = replicationUpdate(raft, server, &result);
	if (rv == 0 && found && raft->state == RAFT_LEADER) {
		i = configurationIndexOf(&raft->configuration, id);
		if (i < raft->configuration.n && progressState(raft, i) == PROGRESS__PIPELINE && !progressIsUpToDate(raft, i)) {
			rv = replicationProgress(raft, i);
		}
	}
	return rv;
}

void glue_bound_commit(struct raft_append_entries *args)
{
	raft_index end = args->prev_log_index + args->n_entries;
	args->leader_commit = args->leader_commit < end ? args->leader_commit : end;
}
