/*
 * Stand in for functions in gateway.c and leader.c's entry, where requests of clients meet what the engine takes on trust.
 */
#include <sqlite3.h>
#include <stdatomic.h>

#include "conn.h"
#include "gateway.h"
#include "leader.h"
#include "protocol.h"
#include "raft.h"
#include "response.h"
#include "stmt.h"
#include "vfs.h"

#include "internal.h"

/*
 * sqlite3_step of EXEC. The engine leaves a statement that yields a row where it stands, with the write lock taken: the
 * database is wedged, and the next write on the connection is an assertion. Here it runs to its end and the rows are
 * dropped, so that the write is replicated like any other.
 */
int glue_step_to_end(sqlite3_stmt *stmt);
int glue_step_to_end(sqlite3_stmt *stmt)
{
	int rv;
	if (!glue_deletion_step_begins(stmt)) {
		return SQLITE_ERROR;
	}
	do {
		rv = sqlite3_step(stmt);
	} while (rv == SQLITE_ROW);
	glue_deletion_step_ended();
	return rv;
}

/*
 * What our own clients put into the half word of a message's header that has no meaning otherwise. They send the statements
 * of a batch ahead of the answers, and the first one that ends the transaction must not let the others commit alone.
 */
enum { IN_TRANSACTION = 1, OUTSIDE_TRANSACTION = 2 };

static bool holds(struct gateway *gateway)
{
	struct conn *conn = (struct conn *)((char *)gateway - offsetof(struct conn, gateway));
	switch (conn->request.extra) {
	case IN_TRANSACTION:
		return !sqlite3_get_autocommit(gateway->leader->conn);
	case OUTSIDE_TRANSACTION:
		return sqlite3_get_autocommit(gateway->leader->conn);
	default:
		return true;
	}
}

/* The same for EXEC_SQL, and with the same answer as below. */
bool glue_is_unwanted(struct gateway *gateway, struct handle *req, int type, struct buffer *buffer, handle_cb cb)
{
	if (type != DQLITE_REQUEST_EXEC_SQL || gateway->req != NULL || gateway->leader == NULL || holds(gateway)) {
		return false;
	}
	struct response_failure failure = { .code = SQLITE_NOTFOUND, .message = "not wanted in this state of the transaction" };
	char *cursor = buffer__advance(buffer, response_failure__sizeof(&failure));
	response_failure__encode(&failure, &cursor);
	req->schema = 0;
	cb(req, SQLITE_NOTFOUND, DQLITE_RESPONSE_FAILURE, 0);
	return true;
}

/*
 * The id of a statement that was finalized while a higher one lives is an empty place in the table, not the end of it. The
 * request before has its answer, so the transaction is what that one left.
 */
struct stmt *glue_stmt_get(struct stmt__registry *registry, size_t id);
struct stmt *glue_stmt_get(struct stmt__registry *registry, size_t id)
{
	if (!holds((struct gateway *)((char *)registry - offsetof(struct gateway, stmts)))) {
		return NULL;
	}
	return id < registry->len ? registry->buf[id] : NULL;
}

/* Without memory for the statement its place in the table was never set. */
int glue_stmt_add(struct stmt__registry *registry, struct stmt **stmt);
int glue_stmt_add(struct stmt__registry *registry, struct stmt **stmt)
{
	size_t before = registry->len;
	int rv = stmt__registry_add(registry, stmt);
	if (rv != 0 && registry->len > before) {
		registry->buf[before] = NULL;
	}
	return rv;
}

/* The engine closes a connection first and finalizes its statements behind that. Called from leader.c. */
void glue_finalize_all(struct leader *leader);
void glue_finalize_all(struct leader *leader)
{
	struct gateway *gateway = leader->data;
	stmt__registry_close(&gateway->stmts);
}

/* Without its last member the engine meets an assertion. */
int glue_raft_remove(struct raft *raft, struct raft_change *change, raft_id id, raft_change_cb cb);
int glue_raft_remove(struct raft *raft, struct raft_change *change, raft_id id, raft_change_cb cb)
{
	return raft->configuration.n > 1 ? raft_remove(raft, change, id, cb) : RAFT_BADID;
}

/* The engine's continuations of what it executes, by the request's type; each always the same function. */
enum { TYPES = 32 };
static _Atomic(exec_done_cb) engine_done[TYPES];

/*
 * Where QUERY_SQL fails before its first step the engine says "nonempty statement tail", whatever the reason: it takes the
 * part of the text that it has not looked at for a second statement. Only where it did look has the failure no other code.
 */
static void correct_tail(struct exec *exec)
{
	if (exec->status != RAFT_OK && exec->status != RAFT_ERROR) {
		exec->tail = NULL;
	}
}

/*
 * A statement that was stopped because the lead is lost is not at fault: whoever asks the next leader may ask again. And rows
 * that a write returned are not so when it is not replicated; behind them its failure would read as another one.
 */
static void correct_failure(struct exec *exec)
{
	struct gateway *gateway = exec->data;
	struct handle *req = gateway->req;
	bool stopped = exec->status == RAFT_ERROR && sqlite3_errcode(gateway->leader->conn) == SQLITE_INTERRUPT;
	if (CURE_STOPPED && stopped && !req->cancellation_requested && gateway->raft->state != RAFT_LEADER) {
		exec->status = RAFT_NOTLEADER;
	}
	if (CURE_BEHIND && exec->status != RAFT_OK && glue_is_query(req)) {
		/* Where the message's body begins, behind the word of its header. */
		req->buffer->offset = sizeof(uint64_t);
	}
}

static void executed(struct exec *exec)
{
	struct gateway *gateway = exec->data;
	int type = gateway->req->type;
	correct_failure(exec);
	if (type == DQLITE_REQUEST_QUERY_SQL && CURE_TAIL) {
		correct_tail(exec);
	}
	if (exec->status != RAFT_OK && CURE_UNSENT) {
		glue_failed(gateway->leader, exec->stmt);
	}
	if (CURE_ADOPTED && !glue_adopt_writer(gateway->leader)) {
		exec->status = RAFT_BUSY;
	}
	bool well = exec->status == RAFT_OK;
	/* Neither what is only compiled nor what is left behind a semicolon is run. */
	if (!well || (exec->stmt != NULL && type != DQLITE_REQUEST_PREPARE)) {
		glue_deletion_executed(gateway->leader->conn, exec->stmt, well);
	}
	atomic_load(&engine_done[type])(exec);
}

/* What was left of it is replicated, or failed to be. */
static void failed(struct exec *exec)
{
	struct gateway *gateway = exec->data;
	if (exec->status != RAFT_OK) {
		executed(exec);
		return;
	}
	exec->status = RAFT_ERROR;
	glue_deletion_executed(gateway->leader->conn, exec->stmt, false);
	atomic_load(&engine_done[gateway->req->type])(exec);
}

/*
 * INSERT OR FAIL, and whatever else fails in the middle with ON CONFLICT FAIL, keeps what it did before and commits that.
 * The engine looks for something to replicate only where a statement succeeded, so it is made to look; the failure is told
 * behind that.
 */
void glue_exec_resume(struct exec *exec)
{
	sqlite3 *conn = exec->leader->conn;
	if (exec->status == RAFT_ERROR && (sqlite3_errcode(conn) & 0xff) == SQLITE_CONSTRAINT && sqlite3_get_autocommit(conn) &&
	    !sqlite3_stmt_readonly(exec->stmt) && !sqlite3_stmt_busy(exec->stmt)) {
		exec->done_cb = failed;
		exec->status = RAFT_OK;
	}
	leader_exec_resume(exec);
}

/* Every statement passes here, with its connection known: from then on it can be seen that the client has gone. */
void glue_leader_exec(struct leader *leader, struct exec *exec, exec_work_cb work, exec_done_cb done);
void glue_leader_exec(struct leader *leader, struct exec *exec, exec_work_cb work, exec_done_cb done)
{
	struct gateway *gateway = exec->data;
	struct conn *conn = (struct conn *)((char *)gateway - offsetof(struct conn, gateway));
	uv_os_fd_t fd;
	if (uv_fileno((uv_handle_t *)conn->transport.stream, &fd) == 0) {
		glue_watch_client(leader->conn, fd);
	}
	int type = gateway->req->type;
	dqlite_assert(type >= 0 && type < TYPES);
	atomic_store(&engine_done[type], done);
	glue_exec_quick(leader, exec, work, executed);
}

/*
 * DUMP copies the database into one buffer, whose size is counted in 32 bits: beyond 2 GiB it doubles to nothing, and the
 * engine writes behind it. A megabyte is for the names and whatever else goes into the answer.
 */
#define DUMP_MAX (((uint64_t)1 << 31) - ((uint64_t)1 << 20))

int glue_acquire_dump(sqlite3 *conn, struct vfsSnapshot *snapshot);
int glue_acquire_dump(sqlite3 *conn, struct vfsSnapshot *snapshot)
{
	int rv = VfsAcquireSnapshot(conn, snapshot);
	if (rv == SQLITE_OK && (uint64_t)snapshot->page_count * snapshot->page_size > DUMP_MAX) {
		VfsReleaseSnapshot(conn, snapshot);
		rv = SQLITE_TOOBIG;
	}
	return rv;
}
