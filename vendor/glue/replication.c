/*
 * Stands in for progressMaybeDecrement in replication.c. When a follower rejects a probe, because its log is shorter than the
 * leader thought, the engine steps back but sends the next probe only with the next heartbeat: half a second for each
 * rejection, after every election and in every join. The answer has come, so the next probe may go at once.
 */
#include "raft.h"
#include "raft/progress.h"

bool glue_progress_decrement(struct raft *raft, unsigned i, raft_index rejected, raft_index last_index);
bool glue_progress_decrement(struct raft *raft, unsigned i, raft_index rejected, raft_index last_index)
{
	bool stepped_back = progressMaybeDecrement(raft, i, rejected, last_index);
	if (stepped_back) {
		raft->leader_state.progress[i].last_send = 0;
	}
	return stepped_back;
}
