/*
 * Runs short statements where they arrive, on the loop's own thread or that of a caller who has its turn: to hand one to a thread of the pool and to be told of
 * its end takes two wake-ups, several times what `SELECT 1` or an INSERT costs itself.
 *
 * The loop must not stand still, so this is only for statements whose like has proved quick on the pool, and it is given up
 * when the statement turns out to be long: after BUDGET looks of the progress handler, by the clock (interrupt.c), or at the
 * first value larger than LARGEST, for single instructions of SQLite can take long only over large values and rows, or where
 * they work on a whole table, and such statements never run here. Then it is interrupted before anything
 * of it was sent, its effects are taken back, and it starts anew on the pool. Where SQLite would not take back just the
 * statement, but the transaction around it, it runs here only if it cannot turn out to be long (bounded.c).
 */
#include <sqlite3.h>
#include <string.h>

#include "bind.h"
#include "conn.h"
#include "gateway.h"
#include "leader.h"
#include "protocol.h"
#include "query.h"

#include "internal.h"

enum { BUDGET = 160, LARGEST = 1 << 20, LARGEST_INSIDE = 1 << 16 };
/* What a statement may take on the pool to be run here from then on: about what handing it over costs the loop. */
enum { QUICK_NS = 40 * 1000 };
/* What one may take here without having to prove itself anew. The machine may have been busy, so once is enough. */
enum { TOLERATED_NS = 500 * 1000 };
/* One that had to be given up has to prove itself more often each time: 2 times up to 4096. */
enum { MOST_FAILURES = 12 };
/* Statements that finish at once can follow one another on the stack. */
enum { DEEPEST = 8 };

int glue_step_to_end(sqlite3_stmt *stmt);
int glue_query_batch(sqlite3_stmt *stmt, struct buffer *buffer);
static int (*const query_batch)(sqlite3_stmt *, struct buffer *) = CURE_QUERY__BATCH ? glue_query_batch : query__batch;

static void (*const resume)(struct exec *) = CURE_LEADER_EXEC_RESUME ? glue_exec_resume : leader_exec_resume;

/*
 * Statements are alike if they differ only in digits and in what stands between single quotes: applications without bound
 * parameters send another text each time.
 */
static uint32_t likeness(const char *sql)
{
	uint32_t hash = 2166136261u;
	char before = 0;
	for (; *sql != '\0'; sql++) {
		char c = *sql >= '0' && *sql <= '9' ? '0' : *sql;
		if (c == '\'') {
			const char *end = strchr(sql + 1, '\'');
			if (end == NULL) {
				break;
			}
			sql = end;
		}
		if (c != '0' || before != '0') {
			hash = (hash ^ (unsigned char)c) * 16777619u;
		}
		before = c;
	}
	return hash;
}

static struct glue_past *past_of(struct glue_quick *quick, const char *sql)
{
	uint32_t hash = likeness(sql);
	struct glue_past *past = &quick->past[hash % GLUE_PASTS];
	if (past->hash != hash) {
		*past = (struct glue_past){ .hash = hash };
	}
	return past;
}

void glue_past_learn(struct glue_past *past, uint64_t took_ns)
{
	if (past->probation > 0) {
		past->probation--;
	}
	past->quick = past->probation == 0 && took_ns <= QUICK_NS;
}

static void given_up(struct glue_past *past)
{
	past->quick = false;
	past->failures += past->failures < MOST_FAILURES;
	past->probation = 1u << past->failures;
}

/* DELETE of all rows is a single instruction, as are many PRAGMAs and what changes the schema. */
static bool is_one_step(sqlite3_stmt *stmt)
{
	static const char *const known[] = { "SELECT", "INSERT", "UPDATE", "REPLACE", "WITH", "VALUES" };
	for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
		if (glue_begins_with(stmt, known[i])) {
			return false;
		}
	}
	return !(glue_begins_with(stmt, "DELETE") && strcasestr(sqlite3_sql(stmt), "WHERE") != NULL);
}

/*
 * An error in the middle takes back a statement alone only if that does not write, or is its own transaction. A write
 * with rows that do not fit would have to be reset without an error, and that commits it.
 */
static bool can_be_taken_back(sqlite3 *conn, sqlite3_stmt *stmt, bool is_query)
{
	if (is_one_step(stmt)) {
		return false;
	}
	if (sqlite3_stmt_readonly(stmt) && sqlite3_column_count(stmt) > 0) {
		return true;
	}
	return sqlite3_get_autocommit(conn) && !is_query;
}

/* How a statement runs: for so many looks at most, for as long as it takes, or not here. */
enum { UNLIMITED = 0, NOT_HERE = -1 };

/* True if the statement ran to its end, well or badly; false if nothing of it has happened. */
static bool run_here(struct exec *exec, struct gateway *gateway, bool is_query, int budget)
{
	struct handle *req = gateway->req;
	sqlite3 *conn = exec->leader->conn;
	struct tuple_decoder decoder = req->decoder;
	struct cursor cursor = req->cursor; /* the decoder reads through it */
	size_t filled = buffer__offset(req->buffer);
	int rv = SQLITE_ERROR;
	if (bind__params(exec->stmt, &req->decoder) == DQLITE_OK &&
	    (!is_query || tuple_decoder__remaining(&req->decoder) == 0)) {
		int largest = sqlite3_limit(conn, SQLITE_LIMIT_LENGTH, budget != UNLIMITED ? LARGEST : -1);
		struct glue_entry *entry = glue_budget_begin(conn, (unsigned)budget);
		req->parameters_bound = true;
		rv = is_query ? query_batch(exec->stmt, req->buffer) : glue_step_to_end(exec->stmt);
		bool overrun = glue_budget_end(entry);
		sqlite3_limit(conn, SQLITE_LIMIT_LENGTH, largest);
		bool ended = rv == SQLITE_DONE || !(overrun || rv == SQLITE_ROW || rv == SQLITE_TOOBIG);
		/* What has to be proven first (lease.c) goes the long way. */
		if (budget != UNLIMITED && ended && glue_holds(exec, rv)) {
			leader_exec_result(exec, rv == SQLITE_DONE ? RAFT_OK : RAFT_ERROR);
			return true;
		}
		/* Inside a transaction, which it may have ended, it is not done again. The lead is lost, as good as. */
		if (budget == UNLIMITED) {
			int failure = glue_holds(exec, rv) ? RAFT_ERROR : RAFT_NOTLEADER;
			leader_exec_result(exec, rv == SQLITE_DONE ? RAFT_OK : failure);
			return true;
		}
	}
	sqlite3_reset(exec->stmt);
	if (!is_query && CURE_UNSENT) {
		glue_take_back(conn);
	}
	req->decoder = decoder;
	req->cursor = cursor;
	req->parameters_bound = false;
	req->buffer->offset = filled;
	return false;
}

/* The engine's own way, by the pool. */
static _Atomic(exec_work_cb) by_pool[2];

static int budget_of(struct exec *exec, struct gateway *gateway, struct glue_past *past, struct glue_bounds *bounds, bool is_query)
{
	struct handle *req = gateway->req;
	bool alone = exec->tail == NULL || exec->tail[0] == '\0';
	if (!alone || glue_is_falling() || req->cancellation_requested || req->parameters_bound) {
		return NOT_HERE;
	}
	if (can_be_taken_back(exec->leader->conn, exec->stmt, is_query)) {
		return past->quick && (!is_query || glue_lease_covers(gateway->raft)) ? BUDGET : NOT_HERE;
	}
	bool bounded = !is_query && req->cursor.cap <= LARGEST_INSIDE && glue_lease_covers(gateway->raft) &&
		       glue_is_bounded(bounds, exec->leader->conn, sqlite3_sql(exec->stmt));
	return bounded ? UNLIMITED : NOT_HERE;
}

static void run(struct exec *exec)
{
	static __thread unsigned depth;
	glue_proof_is_past();
	struct gateway *gateway = exec->data;
	struct handle *req = gateway->req;
	bool is_query = glue_is_query(req);
	struct conn *conn = (struct conn *)((char *)gateway - offsetof(struct conn, gateway));
	struct glue_quick *quick = glue_quick_of(conn->transport.stream->loop);
	struct glue_bounds *bounds = glue_bounds_of(exec->leader->conn);
	struct glue_past *past = past_of(quick, sqlite3_sql(exec->stmt));
	glue_bounds_enter(bounds, exec->leader->conn, sqlite3_sql(exec->stmt));
	int budget = depth < DEEPEST ? budget_of(exec, gateway, past, bounds, is_query) : NOT_HERE;
	if (budget != NOT_HERE) {
		uint64_t began = uv_hrtime();
		if (run_here(exec, gateway, is_query, budget)) {
			uint64_t took = uv_hrtime() - began;
			past->quick = took <= TOLERATED_NS;
			bounds->spent_ns += took;
			exec->tail = NULL;
			depth++;
			resume(exec);
			depth--;
			return;
		}
		given_up(past);
	}
	glue_bounds_long(bounds, exec->leader->conn, exec->stmt);
	quick->learning = past;
	atomic_load(&by_pool[is_query])(exec);
	quick->learning = NULL;
}

void glue_exec_quick(struct leader *leader, struct exec *exec, exec_work_cb work, exec_done_cb done)
{
	if (work != NULL) {
		struct gateway *gateway = exec->data;
		atomic_store(&by_pool[glue_is_query(gateway->req)], work);
	}
	leader_exec(leader, exec, work != NULL ? run : NULL, done);
}
