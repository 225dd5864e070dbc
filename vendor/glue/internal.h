/* Shared by the glue's own files; never seen by Rust. */
#ifndef DQLITEPY_GLUE_INTERNAL_H
#define DQLITEPY_GLUE_INTERNAL_H

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <uv.h>

#include "glue.h"

/*
 * A place that an assertion jumps back to. Each thread that runs engine code keeps a stack of them; only C frames of the
 * engine lie between a guard and the assertion.
 */
struct glue_guard {
	jmp_buf env;
	struct glue_node *node;
	struct glue_guard *outer;
};

extern __thread struct glue_guard *glue_guard_top;

/* Use as: if (GLUE_GUARDED(&guard, node)) { engine code; glue_guard_leave(&guard); } else { lost }. */
#define GLUE_GUARDED(guard, owner) (glue_guard_enter((guard), (owner)), setjmp((guard)->env) == 0)

static inline void glue_guard_enter(struct glue_guard *guard, struct glue_node *node)
{
	guard->node = node;
	guard->outer = glue_guard_top;
	glue_guard_top = guard;
}

static inline void glue_guard_leave(struct glue_guard *guard)
{
	glue_guard_top = guard->outer;
}

/* The node is beyond use: keep the reason, tell the owner once. */
void glue_mark_lost(struct glue_node *node, const char *reason);

/* Blocks the signals that a host may have handlers for, SIGPIPE among them, in this thread; the former mask goes to `old`. */
void glue_mask_signals(sigset_t *old);

/* For threads that run the engine: SQLite recurses, and a client decides how deep. */
int glue_thread_attr(pthread_attr_t *attr);

/*
 * Threads that run the engine's SQL steps and dial its peers; one pool a node, so that nodes do not share their fate.
 */
struct glue_pool;

struct glue_pool *glue_pool_open(struct glue_node *node, uv_loop_t *loop);

/* Closes the handle on the loop; on the loop's thread, after the loop has ended. */
void glue_pool_detach(struct glue_pool *pool);

/* Ends the threads. Waits for them and frees the pool, unless the node is lost: a job of it may never end. */
void glue_pool_close(struct glue_pool *pool, bool wait);

/* Whose loop this is, and that node's pool. */
struct glue_pool *glue_pool_of(uv_loop_t *loop);
/* Does what is to be done behind jobs that have ended; like the loop's callbacks. */
void glue_pool_look(uv_loop_t *loop);
/* The loop's thread is to look; any thread. */
void glue_pool_tell(struct glue_pool *pool);
/* Leaves what runs on this thread, with the turn, if its node is lost: the engine is not to go on with what is half done. */
void glue_leave_if_lost(void);

/* Who may run the loop's callbacks (turn.c): its own thread, or one of this process with a request. */
struct glue_turn {
	pthread_mutex_t mutex;
	int nice; /* of the loop's thread */
	atomic_bool loop_runs; /* or waits for its turn */
	uv_loop_t *loop;
	uint64_t sleeps_until; /* by the loop's clock; with the turn */
};

void glue_turn_open(struct glue_turn *turn);
void glue_turn_close(struct glue_turn *turn);
/* On the loop's thread, around all that it does. */
void glue_turn_begin(struct glue_turn *turn, uv_loop_t *loop);
void glue_turn_end(struct glue_turn *turn);
struct glue_turn *glue_turn_of(struct glue_node *node);
/* This thread is a caller's. */
bool glue_turn_is_borrowed(void);
/* The same, and glue_pool_look will be called before the turn is given away. */
bool glue_turn_takes_jobs(void);

/* Requests from outside to a running loop. Opened before the loop runs, detached on its thread after it has ended. */
struct dqlite_node;
struct glue_loop;
struct glue_loop *glue_loop_open(struct dqlite_node *engine, const struct glue_options *options);
void glue_loop_detach(struct glue_loop *loop);
void glue_loop_free(struct glue_loop *loop);
struct glue_loop *glue_loop_of(struct glue_node *node);
/* It looks at its timers and its sockets again; any thread. */
void glue_loop_wake(struct glue_loop *loop);
struct glue_loop *glue_loop_here(void);
struct raft;
struct glue_loop *glue_loop_of_raft(struct raft *raft);
/* Raft is closed, and its clock gone; the loop's timers and requests may come for two more turns. */
bool glue_is_over(const struct raft *raft);

/* Until when a leader's reads need no proof (lease.c); with the turn. */
struct glue_lease {
	uint64_t proven_in; /* the term; 0: not at all */
	uint64_t proven_at; /* when the entry that proves it was appended at the earliest */
	uint64_t waits_for; /* the index of the next proof, 0: none */
	uint64_t waits_in;
	uint64_t waits_since;
	bool refreshing;
};
struct glue_lease *glue_lease_of(struct raft *raft);
void glue_lease_end(struct glue_lease *lease);

/* The leader that is gone, or was deposed, and the next election (election.c); with the turn. */
struct glue_election {
	uv_timer_t timer;
	uint64_t lost_leader; /* this node itself, if it was deposed; 0: none */
	uint64_t lost_at;
	uint64_t lost_in; /* the term */
	bool gone; /* its host has refused a connection since, or it was waited for long enough */
	uint64_t deaf_in; /* the term in which this node leads and a majority cannot answer; 0: it can */
	uint64_t deaf_since;
};
struct glue_election *glue_election_of(struct raft *raft);
void glue_election_open(struct glue_election *election, struct raft *raft, uv_loop_t *loop);
void glue_election_detach(struct glue_election *election);
/* Our link to that peer has ended; or none could be made, for nobody listens there. */
void glue_link_ended(struct raft *raft, const char *address);
void glue_link_refused(struct raft *raft, const char *address);
/* Our link to that peer is there (loop.c). */
bool glue_speaks_to(struct raft *raft, const char *address);

/* A snapshot that came while this node could not take it (install.c); with the turn. */
struct glue_late;
struct glue_install {
	uv_timer_t timer;
	struct glue_late *late; /* NULL: none */
};
struct glue_install *glue_install_of(struct raft *raft);
void glue_install_open(struct glue_install *install, struct raft *raft, uv_loop_t *loop);
void glue_install_detach(struct glue_install *install);
/* A link between us and that member has ended, or a new one has come. */
void glue_snapshot_in_doubt(struct raft *raft, uint64_t peer);
/* All of a snapshot has gone to that member, and no answer was heard (catchup.c). */
bool glue_snapshot_was_sent(uint64_t peer);

/* What the log holds since the last snapshot (snapshot.c); with the turn. */
struct glue_growth {
	uint64_t snapshot; /* the last one's index */
	uint64_t counted;  /* up to this index */
	uint64_t bytes;
	uint64_t taken_at; /* the index of the newest snapshot that was begun, and what it holds; 0: none since the start */
	uint64_t size;
};
struct glue_growth *glue_growth_of(struct raft *raft);
struct raft *glue_raft_here(void);
struct registry;
struct registry *glue_registry_here(void);
/* Those of the node with this raft. */
const struct glue_options *glue_options_of(struct raft *raft);

/* What the node opened last to apply or to copy a database (follower.c). */
struct db;
struct sqlite3;
struct glue_opened {
	struct db *db;
	struct sqlite3 *conn;
	bool applied; /* a transaction; snapshots open connections too */
	size_t restored; /* databases, from the snapshot that is being restored */
};
struct glue_opened *glue_opened_here(void);
/* fsm->restore, after which there is no other database than in the snapshot. */
struct raft_fsm;
struct raft_buffer;
int glue_restore_all(struct raft_fsm *fsm, struct raft_buffer *from);

/* What strangers are told of the members in raft's place; none: what raft knows (visit.c). With the turn. */
struct raft_configuration;
const struct raft_configuration *glue_told_of(struct raft *raft);

/* Whether this thread's raft is stepping down just now, and calls itself leader still. */
bool glue_is_falling(void);
/* What was read just now is true without asking the others. */
bool glue_lease_covers(struct raft *raft);
/* Statements that run from now on need a proof of their own. */
void glue_proof_is_past(void);
/* What a statement's step gave may go out: it does not depend on what this node takes for committed, or is covered. */
struct exec;
bool glue_holds(struct exec *exec, int rv);
struct handle;
bool glue_is_query(const struct handle *req);

/*
 * How soon the engine dials a peer again that did not answer. Its own second is longer than everything else that a new
 * leader has to wait for: after a restart the survivors have to reach each other before they can elect one.
 */
enum { GLUE_REDIAL_MS = 50 };

/* Any thread: the engine was given this socket as its link to a peer; -1: nobody listens there. */
void glue_loop_dialled(struct glue_loop *loop, const char *address, int fd);

/* The raft link from this peer has ended; if it was the leader, an election begins soon. On the loop's thread. */
void glue_loop_link_lost(uint64_t peer);
/* A new one from this peer. */
void glue_loop_link_arrived(uint64_t peer);

/* Whether a message may be decoded; false ends its link (link.c). */
bool glue_message_is_whole(uint16_t type, const uv_buf_t *header);
/* The link that is being read from (catchup.c), and whose it is (visit.c). On the loop's thread. */
uv_stream_t *glue_link_read(void);
uint64_t glue_visits_peer(const uv_stream_t *link);

/* Connections that were handed over. Opened before the loop runs, detached on its thread after it has ended. */
struct glue_visits;
struct glue_visits *glue_visits_open(struct dqlite_node *engine, const struct glue_options *options);
void glue_visits_detach(struct glue_visits *visits);
/* Those of the node that this thread, its loop's, belongs to. */
struct glue_visits *glue_visits_here(void);
/* Whether the last raft link that this peer opened is there and has not ended, read or unread. On the loop's thread. */
bool glue_visits_hear(uint64_t peer);
struct glue_visitor;
struct glue_visitor *glue_visitor_new(const struct glue_visit *visit);
/* On the loop's thread. */
void glue_visitor_enter(struct glue_visitor *visitor);
/* Forgets one that was never handed over; NULL is none. */
void glue_visitor_free(struct glue_visitor *visitor);
/* Closes the descriptor of one that did not enter; any thread. */
void glue_visitor_send_away(struct glue_visitor *visitor, const struct glue_options *options);
/* The connection at the end of a path waits for a request, and none is on its way; with the turn. */
bool glue_path_is_quiet(struct glue_path *path);
uv_stream_t *glue_path_stream(struct glue_path *path);
/* It gets these bytes as if it had read them. */
void glue_path_hear(struct glue_path *path, const uint8_t *bytes, size_t size);
/* The client does not take its answer, or takes it again. */
struct conn;
void glue_visitor_held_up(struct conn *conn, bool held_up);
/* It has rows of its query, and further ones are under way. */
void glue_visitor_note_rows(struct conn *conn, bool has_rows);
bool glue_visitor_has_rows(struct conn *conn);

/* The statement that runs next on this connection of SQLite belongs to the client behind this socket. */
struct sqlite3;
void glue_watch_client(struct sqlite3 *conn, int fd);

/* Who catches up. Opened before the loop runs, detached on its thread after it has ended. */
struct glue_transfers;
struct glue_transfers *glue_transfers_open(struct dqlite_node *engine, const struct glue_options *options);
void glue_transfers_detach(struct glue_transfers *transfers);
void glue_transfers_free(struct glue_transfers *transfers);
/* Those of the node that this thread, its loop's, belongs to. */
struct glue_transfers *glue_transfers_here(void);
/* The node of this loop is to end; any thread that works for it. */
bool glue_is_stopping(uv_loop_t *loop);
/* uv_write of a message of any size (parts.c). */
int glue_write_in_parts(uv_write_t *req, uv_stream_t *stream, const uv_buf_t bufs[], unsigned n, uv_write_cb cb);
/* How much log may stay behind a snapshot of this size (trailing.c). */
uint64_t glue_trailing_bytes(uint64_t snapshot);
struct uvSegmentInfo;
int glue_undo_truncation(const char *dir, struct uvSegmentInfo *segments, size_t *n, char *errmsg);
/* Memory for a page of a database (pages.c). */
void *glue_page_new(unsigned long long size);
void glue_page_free(void *page);
/* In a message to a member: what is committed, as far as the message goes (replication.c). */
struct raft_append_entries;
void glue_bound_commit(struct raft_append_entries *args);

/*
 * How statements of one kind did so far, to know which may run at once (quick.c); with the turn.
 */
enum { GLUE_PASTS = 1024 };

struct glue_past {
	uint32_t hash;
	uint16_t probation; /* so many runs on the pool must be over first */
	uint8_t failures;   /* how often one ran too long */
	bool quick;
};

struct glue_quick {
	struct glue_past past[GLUE_PASTS];
	struct glue_past *learning; /* the next job of the pool is of that kind */
};

struct glue_quick *glue_quick_of(uv_loop_t *loop);

/* When the node's last segment was prepared (segment.c); one at a time is. 0: none yet. */
uint64_t *glue_last_segment_of(uv_loop_t *loop);
void glue_past_learn(struct glue_past *past, uint64_t took_ns);

/* Until its end the budget is what the statement on this connection may take; then says whether that was too little. */
struct glue_entry;
struct glue_entry *glue_budget_begin(struct sqlite3 *conn, unsigned looks);
bool glue_budget_end(struct glue_entry *entry);

/* No statement of the connection is in the middle of its run. */
bool glue_has_ended(struct sqlite3 *conn);

/* What a statement failed with, for its client, while something else is done with the connection. */
struct glue_error {
	int code;
	char *message; /* NULL: it did not fail */
};
struct glue_error glue_error_keep(struct sqlite3 *conn);
void glue_error_restore(struct sqlite3 *conn, struct glue_error *error);

/* Gives up what the connection has committed and the engine has not fetched (unsent.c). */
void glue_take_back(struct sqlite3 *conn);
/* The same behind a statement that failed, whatever state it is in. */
struct leader;
struct sqlite3_stmt;
void glue_failed(struct leader *leader, struct sqlite3_stmt *stmt);
/* The database works for this connection's transaction from now on; false if it works for another one's. */
bool glue_adopt(struct leader *leader);
bool glue_adopt_writer(struct leader *leader);

/* What statements are, whatever SQLite says of them (pragmas.c). */
bool glue_begins_with(struct sqlite3_stmt *stmt, const char *word);
bool glue_is_pragma(struct sqlite3_stmt *stmt, const char *pragma);
bool glue_optimizes(struct sqlite3_stmt *stmt);
int glue_stmt_readonly(struct sqlite3_stmt *stmt);

enum glue_wish { GLUE_WISHES_NOTHING, GLUE_WISHES_DELETION, GLUE_WISHES_TOO_MUCH };

/* A statement of the connection has been executed; one is run on this thread (deletion.c). */
void glue_deletion_executed(struct sqlite3 *conn, struct sqlite3_stmt *stmt, bool well);
/* False if it must not run: why is the connection's error. */
bool glue_deletion_step_begins(struct sqlite3_stmt *stmt);
void glue_deletion_step_ended(void);
void glue_deletion_forget(struct sqlite3 *conn);
/* What the connection's transaction asked for; NULL if the connection is not known. */
enum glue_wish *glue_wish_of(struct sqlite3 *conn);

/* Compiled statements of a connection that wait to be used again (kept.c); with the turn. */
enum { GLUE_KEPT = 16 };

struct glue_kept {
	struct sqlite3_stmt *stmt[GLUE_KEPT];
	uint32_t seen[GLUE_KEPT]; /* the hash of the text that was there last */
};

struct glue_kept *glue_kept_of(struct sqlite3 *conn);
void glue_kept_clear(struct glue_kept *kept);

/* What a connection's statements may take at most (bounded.c); with the turn. */
enum { GLUE_PROOFS = 256 };

struct glue_proof {
	uint64_t shape; /* of the text; 0: none */
	int schema;	/* the version that it holds for */
	bool tried;
	bool bounded;
	bool controls; /* begins and ends transactions, and looks at no table */
};

struct glue_bounds {
	struct glue_proof proof[GLUE_PROOFS];
	struct sqlite3_stmt *version; /* reads the schema's */
	bool pending;	/* what may change programs is compiled, and did not run */
	bool unsettled; /* or ran in the transaction under way */
	bool heavy;	/* so did a write that may have been long */
	uint64_t spent_ns; /* on the other writes of the transaction */
};

struct glue_bounds *glue_bounds_of(struct sqlite3 *conn);
void glue_bounds_clear(struct glue_bounds *bounds);
/* A statement was compiled. */
void glue_bounds_compiled(struct glue_bounds *bounds, const char *sql);
/* It is to run now. */
void glue_bounds_enter(struct glue_bounds *bounds, struct sqlite3 *conn, const char *sql);
/* It runs for as long as it likes. */
void glue_bounds_long(struct glue_bounds *bounds, struct sqlite3 *conn, struct sqlite3_stmt *stmt);
/* It ends soon, whatever the database holds. Only for what is to run at once, and has the write lock if it writes. */
bool glue_is_bounded(struct glue_bounds *bounds, struct sqlite3 *conn, const char *sql);

/* The connection has a database open, and waits for the end of a change of the members or of the leader (node.c). */
struct gateway;
bool glue_is_about_members(const struct gateway *gateway);

/* Answers a statement whose condition does not hold (gateway.c); false if it is to run. */
struct handle;
struct buffer;
bool glue_is_unwanted(struct gateway *gateway,
		      struct handle *req,
		      int type,
		      struct buffer *buffer,
		      void (*answer)(struct handle *req, int status, uint8_t type, uint8_t schema));

/* A statement has run, well or badly (gateway.c). */
struct exec;
void glue_exec_resume(struct exec *exec);

/* leader_exec, with statements that proved quick run at once. */
void glue_exec_quick(struct leader *leader, struct exec *exec, void (*work)(struct exec *), void (*done)(struct exec *));

bool glue_is_lost(struct glue_node *node);

#endif
