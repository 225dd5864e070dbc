/*
 * Snapshots that come at the wrong time, or of which nobody knows whether they came. The engine drops the first kind, and in
 * both cases the leader waits for half a minute, and for as long as catchup.c is patient before that, until it sends another.
 *
 * Everything here is on the loop's thread.
 */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#include "raft.h"
#include "raft/configuration.h"
#include "raft/log.h"
#include "raft/progress.h"
#include "raft/recv.h"
#include "raft/recv_install_snapshot.h"

enum { LOOK_MS = 20 };

struct glue_late {
	struct raft_message message;
	char address[];
};

static void forget(struct glue_late *late)
{
	if (late != NULL) {
		raft_free(late->message.install_snapshot.data.base);
		configurationClose(&late->message.install_snapshot.conf);
		free(late);
	}
}

/* It writes a snapshot of its own, or one that it was sent. */
static bool is_busy(const struct raft *raft)
{
	return raft->snapshot.pending.term != 0 || raft->snapshot.put.data != NULL;
}

/* Whom this node follows says the same as when the message came; who was given up since would be believed in again. */
static bool still_holds(const struct raft *raft, const struct raft_message *message)
{
	return raft->state == RAFT_FOLLOWER && raft->current_term == message->install_snapshot.term &&
	       raft->follower_state.current_leader.id == message->server_id;
}

static void deliver(uv_timer_t *timer)
{
	struct raft *raft = timer->data;
	struct glue_install *install = glue_install_of(raft);
	struct glue_late *late = install->late;
	if (glue_is_over(raft) || is_busy(raft)) {
		return;
	}
	uv_timer_stop(timer);
	install->late = NULL;
	if (still_holds(raft, &late->message)) {
		recvCb(raft->io, &late->message);
		free(late);
	} else {
		forget(late);
	}
}

/* Takes the place of one that waits already: its leader sends no two without reason. */
static bool keep(struct raft *raft, raft_id id, const char *address, const struct raft_install_snapshot *args)
{
	struct glue_install *install = glue_install_of(raft);
	struct glue_late *late = malloc(sizeof *late + strlen(address) + 1);
	if (late == NULL) {
		return false;
	}
	strcpy(late->address, address);
	late->message = (struct raft_message){
		.type = RAFT_IO_INSTALL_SNAPSHOT, .server_id = id, .server_address = late->address, .install_snapshot = *args
	};
	if (raft->snapshot.pending.term == 0 && logSnapshotIndex(raft->log) >= args->last_index) {
		/* What is being installed is at least as new; all that is still to be done is to say so. */
		raft_free(args->data.base);
		late->message.install_snapshot.data = (struct raft_buffer){ 0 };
	}
	forget(install->late);
	install->late = late;
	uv_timer_start(&install->timer, deliver, LOOK_MS, LOOK_MS);
	return true;
}

/* Stands in for recvInstallSnapshot in recv.c. Who is busy keeps the message until it can be taken. */
int glue_recv_install_snapshot(struct raft *raft, raft_id id, const char *address, struct raft_install_snapshot *args);
int glue_recv_install_snapshot(struct raft *raft, raft_id id, const char *address, struct raft_install_snapshot *args)
{
	bool busy = is_busy(raft);
	int rv = recvInstallSnapshot(raft, id, address, args);
	return rv == RAFT_BUSY && busy && keep(raft, id, address, args) ? 0 : rv;
}

/*
 * A link between this leader and a member has ended, or a new one has come. If the member was sent a snapshot, it may have been
 * lost behind the last system call, or its answer; or the member has started again in between. Whether it has it is asked
 * before it is sent again.
 */
void glue_snapshot_in_doubt(struct raft *raft, raft_id peer)
{
	unsigned i = raft->state == RAFT_LEADER ? configurationIndexOf(&raft->configuration, peer) : raft->configuration.n;
	if (!CURE_SENT_AGAIN || i == raft->configuration.n || progressState(raft, i) != PROGRESS__SNAPSHOT ||
	    !glue_snapshot_was_sent(peer)) {
		return;
	}
	struct raft_progress *progress = &raft->leader_state.progress[i];
	progress->next_index = progress->snapshot_index + 1;
	progressAbortSnapshot(raft, i);
}

void glue_install_open(struct glue_install *install, struct raft *raft, uv_loop_t *loop)
{
	uv_timer_init(loop, &install->timer);
	install->timer.data = raft;
	/* It must not keep a loop running that is otherwise done. */
	uv_unref((uv_handle_t *)&install->timer);
}

void glue_install_detach(struct glue_install *install)
{
	uv_close((uv_handle_t *)&install->timer, NULL);
	forget(install->late);
	install->late = NULL;
}
