/*
 * What a leader reads is true only while it leads. The engine asks its own state, which is old where the process was paused
 * or cut off: the others may have elected another leader and written since. So before the first rows of a read go out, this
 * node has to know that it still led when the read began.
 *
 * It knows by its log: an entry that it appended and that was committed in the same term was taken by a majority after it
 * was appended, so until then no other leader was elected, and none is for an election timeout after: who took it waits that
 * long. A read that is covered by such an entry goes out at once. One that is not waits for a barrier, a new entry. Writes
 * need nothing: their own entry is the proof.
 *
 * That holds for all that was not written: rows, and that there are none; errors, for a constraint or a table may be there no
 * more, or be there by now; and that there was nothing to change.
 *
 * Elections that do not wait for the timeout (election.c): those at the end of the leader's links, for which its host has
 * refused a connection, or a lease has passed since; those behind a leader that has stepped down, and so reads no more; and
 * those of a transfer of leadership. All of them end the lease here, too.
 *
 * Stand in for raft_apply and raft_barrier in leader.c, and for the call of raft_io.async_work in gateway.c.
 */
#include <sqlite3.h>
#include <stdatomic.h>
#include <time.h>

#include "conn.h"
#include "gateway.h"
#include "leader.h"
#include "protocol.h"
#include "raft.h"
#include "raft/configuration.h"
#include "raft/log.h"

#include "internal.h"

/* Goes on while the host sleeps. uv_now would not do: it stands still while the loop is busy. */
static uint64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static bool leads_alone(const struct raft *raft)
{
	const struct raft_server *self = configurationGet(&raft->configuration, raft->id);
	return configurationVoterCount(&raft->configuration) == 1 && self != NULL && self->role == RAFT_VOTER;
}

void glue_lease_end(struct glue_lease *lease)
{
	*lease = (struct glue_lease){ .refreshing = lease->refreshing };
}

/* While raft steps down; see below. */
static __thread bool falling;

/* Half of the default election timeout: the latency option may be another on each node, and the others' is what counts. */
enum { LONGEST_MS = 1500 };

/* How long reads are still covered, in ms. The lease is half an election timeout: the clocks of hosts differ a little. */
static uint64_t time_left(struct raft *raft, struct glue_lease *lease)
{
	uint64_t length = raft->election_timeout / 2 < LONGEST_MS ? raft->election_timeout / 2 : LONGEST_MS;
	if (raft->state != RAFT_LEADER || falling) {
		return 0;
	}
	if (leads_alone(raft)) {
		return length;
	}
	if (raft->transfer != NULL) {
		/* Whom the lead is given to stands for election at once. */
		glue_lease_end(lease);
		return 0;
	}
	if (lease->waits_for != 0 && lease->waits_in == raft->current_term && raft->commit_index >= lease->waits_for) {
		lease->proven_in = lease->waits_in;
		lease->proven_at = lease->waits_since;
		lease->waits_for = 0;
	}
	uint64_t age = now_ms() - lease->proven_at;
	return lease->proven_in == raft->current_term && age < length ? length - age : 0;
}

/* If the log has grown since it ended at `before`, its last entry was appended at `began` or later. */
static void note(struct raft *raft, raft_index before, uint64_t began)
{
	struct glue_lease *lease = glue_lease_of(raft);
	raft_index last = logLastIndex(raft->log);
	time_left(raft, lease);
	if (last > before && (lease->waits_for == 0 || lease->waits_in != raft->current_term)) {
		lease->waits_for = last;
		lease->waits_in = raft->current_term;
		lease->waits_since = began;
	}
}

/*
 * While a leader steps down its requests fail, one after another. raft calls itself leader until that is over, although its
 * term may be the next leader's already and its table of followers is freed: a writer that waited for one that failed would
 * have its entry appended under a false term. So nothing is appended then. A leader whose disk refuses a write steps down only when
 * all that waited have heard of it: what is appended meanwhile stands behind that write in raft's log, and in its place on the disk.
 */
bool glue_is_falling(void)
{
	return falling;
}

static void apply_ended(struct raft_apply *req, int status)
{
	raft_apply_cb cb = (raft_apply_cb)req->data;
	bool outer = falling;
	falling = CURE_FALLING && (outer || status != 0);
	cb(req, status);
	falling = outer;
}

static void barrier_ended(struct raft_barrier *req, int status)
{
	raft_barrier_cb cb = (raft_barrier_cb)req->data;
	bool outer = falling;
	falling = CURE_FALLING && (outer || status != 0);
	cb(req, status);
	falling = outer;
}

int glue_apply(struct raft *, struct raft_apply *, const struct raft_buffer[], unsigned, raft_apply_cb);
int glue_apply(struct raft *raft, struct raft_apply *req, const struct raft_buffer bufs[], unsigned n, raft_apply_cb cb)
{
	raft_index before = logLastIndex(raft->log);
	uint64_t began = now_ms();
	struct exec *exec = (struct exec *)((char *)req - offsetof(struct exec, apply));
	if (falling) {
		return RAFT_NOTLEADER;
	}
	/*
	 * The lead was lost while the statement ran, and its connection is being closed. If this node leads again by now, another
	 * leader's entries may stand in between, of which the pages that were changed know nothing.
	 */
	if (CURE_REGAINED && exec->leader->close_cb != NULL) {
		return RAFT_NOTLEADER;
	}
	if (CURE_ADOPTED && !glue_adopt(exec->leader)) {
		return RAFT_BUSY;
	}
	req->data = (void *)cb;
	int rv = raft_apply(raft, req, bufs, n, apply_ended);
	note(raft, before, began);
	return rv;
}

static int barrier(struct raft *raft, struct raft_barrier *req, raft_barrier_cb cb, raft_barrier_cb ended)
{
	raft_index before = logLastIndex(raft->log);
	uint64_t began = now_ms();
	if (falling) {
		return RAFT_NOTLEADER;
	}
	req->data = (void *)cb;
	int rv = raft_barrier(raft, req, ended);
	note(raft, before, began);
	return rv;
}

int glue_barrier(struct raft *, struct raft_barrier *, raft_barrier_cb);
int glue_barrier(struct raft *raft, struct raft_barrier *req, raft_barrier_cb cb)
{
	return barrier(raft, req, cb, barrier_ended);
}

struct refresh {
	struct raft_barrier barrier;
	struct glue_lease *lease;
};

static void refreshed(struct raft_barrier *barrier, int status)
{
	struct refresh *refresh = (struct refresh *)barrier;
	(void)status;
	refresh->lease->refreshing = false;
	raft_free(refresh);
}

/* Ahead of time, so that where much is read and nothing written no read has to wait. */
static void refresh(struct raft *raft, struct glue_lease *lease)
{
	struct refresh *refresh;
	if (lease->refreshing || (refresh = raft_malloc(sizeof *refresh)) == NULL) {
		return;
	}
	refresh->lease = lease;
	lease->refreshing = true;
	if (glue_barrier(raft, &refresh->barrier, refreshed) != 0) {
		refreshed(&refresh->barrier, RAFT_NOTLEADER);
	}
}

bool glue_lease_covers(struct raft *raft)
{
	struct glue_lease *lease = glue_lease_of(raft);
	uint64_t left = time_left(raft, lease);
	if (!CURE_LEASE) {
		return true;
	}
	if (left > 0 && left < raft->election_timeout / 4) {
		refresh(raft, lease);
	}
	return left > 0;
}

static void not_proven_ended(struct raft_barrier *req, int status)
{
	barrier_ended(req, status == 0 ? 0 : RAFT_NOTLEADER);
}

/* The barrier that has just ended well and is younger than what waits for it: no other proof is needed. */
static __thread struct raft_barrier *proof;

static void proof_ended(struct raft_barrier *req, int status)
{
	proof = status == 0 ? req : NULL;
	not_proven_ended(req, status);
	proof = NULL;
}

void glue_proof_is_past(void)
{
	proof = NULL;
}

/* One that was on its way before is no proof for what was seen since; `cb` has to ask again. */
static int ask_for_proof(struct raft *raft, struct raft_barrier *req, raft_barrier_cb cb)
{
	raft_index before = logLastIndex(raft->log);
	int rv = barrier(raft, req, cb, not_proven_ended);
	if (rv == 0 && logLastIndex(raft->log) > before) {
		req->cb = proof_ended;
	}
	return rv;
}

/*
 * A text that does not compile, and may be right to who leads now. RAFT_ERROR: it is wrong; 0: wait for `cb`, and compile it
 * again then, when more may have been applied. Called from leader.c.
 */
int glue_prove_error(struct raft *raft, struct raft_barrier *req, raft_barrier_cb cb);
int glue_prove_error(struct raft *raft, struct raft_barrier *req, raft_barrier_cb cb)
{
	return req == proof || glue_lease_covers(raft) ? RAFT_ERROR : ask_for_proof(raft, req, cb);
}

bool glue_is_query(const struct handle *req)
{
	return req->type == DQLITE_REQUEST_QUERY || req->type == DQLITE_REQUEST_QUERY_SQL;
}

static void nothing_proven(struct raft_barrier *barrier, int status)
{
	struct exec *exec = (struct exec *)((char *)barrier - offsetof(struct exec, barrier));
	leader_exec_result(exec, status);
	leader_exec_resume(exec);
}

/*
 * A statement that could write has ended, and there is nothing to replicate: there was nothing to change, or it is a part of
 * a transaction. Called from leader.c, and again after the wait if it is true.
 */
bool glue_waits_for_proof(struct exec *exec);
bool glue_waits_for_proof(struct exec *exec)
{
	struct raft *raft = exec->leader->raft;
	sqlite3 *conn = exec->leader->conn;
	const struct handle *req = ((struct gateway *)exec->data)->req;
	/* Its transaction's own entry will be the proof. */
	bool later = !sqlite3_get_autocommit(conn) && sqlite3_changes(conn) > 0;
	bool needed = !sqlite3_stmt_readonly(exec->stmt) && !later && !req->cancellation_requested;
	if (!needed || &exec->barrier == proof || glue_lease_covers(raft)) {
		return false;
	}
	int rv = ask_for_proof(raft, &exec->barrier, nothing_proven);
	leader_exec_result(exec, rv);
	return rv == 0;
}

/* `rv` is what the step gave. Where something was changed, the entry with it is the proof. */
bool glue_holds(struct exec *exec, int rv)
{
	struct gateway *gateway = exec->data;
	bool failed = rv != SQLITE_ROW && rv != SQLITE_DONE;
	bool depends = failed ? CURE_ERRORS && sqlite3_errcode(exec->leader->conn) != SQLITE_INTERRUPT
			      : glue_is_query(gateway->req) && glue_stmt_readonly(exec->stmt);
	return !depends || glue_lease_covers(gateway->raft);
}

/* The engine's own continuations of a statement without and with rows; always the same functions. */
static _Atomic(raft_io_async_work_cb) work_done[2];

static void go_on(struct raft_io_async_work *work, int result)
{
	struct exec *exec = work->data;
	atomic_load(&work_done[glue_is_query(((struct gateway *)exec->data)->req)])(work, result);
}

static void prove(struct raft_io_async_work *work, int result);

/* A statement whose first rows or whose error are there and wait for the proof. */
struct waiting {
	struct raft_barrier barrier;
	struct raft_io_async_work *work;
	int result; /* of the step */
	bool fresh; /* the barrier is an entry of its own, and not one that was there before the read */
};

/* Nothing of it has left this node, and nothing was changed: whoever asks the next leader gets the same answer. */
static void refuse(struct raft_io_async_work *work)
{
	struct exec *exec = work->data;
	struct gateway *gateway = exec->data;
	sqlite3_reset(exec->stmt);
	/* Back to where the message's body begins, behind the word of its header. */
	gateway->req->buffer->offset = sizeof(uint64_t);
	leader_exec_result(exec, RAFT_NOTLEADER);
	leader_exec_resume(exec);
}

static struct raft *raft_of(struct raft_io_async_work *work)
{
	struct exec *exec = work->data;
	return ((struct gateway *)exec->data)->raft;
}

static void proven(struct raft_barrier *barrier, int status)
{
	struct waiting waiting = *(struct waiting *)barrier;
	struct raft *raft = raft_of(waiting.work);
	raft_free(barrier);
	if (status != 0) {
		refuse(waiting.work);
	} else if (waiting.fresh || time_left(raft, glue_lease_of(raft)) > 0) {
		go_on(waiting.work, waiting.result);
	} else {
		prove(waiting.work, waiting.result);
	}
}

static void prove(struct raft_io_async_work *work, int result)
{
	struct raft *raft = raft_of(work);
	raft_index before = logLastIndex(raft->log);
	struct waiting *waiting = raft_malloc(sizeof *waiting);
	if (waiting == NULL) {
		refuse(work);
		return;
	}
	*waiting = (struct waiting){ .work = work, .result = result };
	if (glue_barrier(raft, &waiting->barrier, proven) != 0) {
		raft_free(waiting);
		refuse(work);
		return;
	}
	waiting->fresh = logLastIndex(raft->log) > before;
}

static void work_ended(struct raft_io_async_work *work, int result)
{
	struct exec *exec = work->data;
	const struct handle *req = ((struct gateway *)exec->data)->req;
	bool query = glue_is_query(req);
	/* That of a statement without rows is in its status. */
	int rv = query ? result : exec->status == RAFT_OK ? SQLITE_DONE : SQLITE_ERROR;
	/* Otherwise the request itself made no sense. */
	bool stepped = exec->status == RAFT_OK || (!query && exec->status == RAFT_ERROR);
	if (!stepped || req->cancellation_requested || glue_holds(exec, rv)) {
		go_on(work, result);
	} else {
		prove(work, result);
	}
}

raft_io_async_work_cb glue_work_done(struct gateway *gateway, raft_io_async_work_cb done);
raft_io_async_work_cb glue_work_done(struct gateway *gateway, raft_io_async_work_cb done)
{
	const struct handle *req = gateway->req;
	bool query = glue_is_query(req);
	/* Further rows are of the state that was proven with the first. */
	glue_visitor_note_rows((struct conn *)((char *)gateway - offsetof(struct conn, gateway)), query && req->parameters_bound);
	if (query && req->parameters_bound) {
		return done;
	}
	atomic_store(&work_done[query], done);
	return work_ended;
}
