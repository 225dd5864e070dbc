/*
 * Stand in for db__open, VfsApply, VfsRestore and sqlite3_close in fsm.c, and for db__close in registry.c.
 *
 * To apply a transaction that a leader sent, the engine opens a connection of SQLite and closes it again. Opening reads the
 * database, and as nobody else has it open, reading recovers the index of the whole WAL: on average half a thousand pages
 * are copied and summed for each page that is written, so that a follower works several times as hard as its leader and
 * falls behind it. Here the connection stays open for the next transaction.
 */
#include <pthread.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "db.h"
#include "raft.h"
#include "raft/progress.h"
#include "raft/replication.h"
#include "registry.h"
#include "vfs.h"

#include "internal.h"

enum { BUCKETS = 256 };

/* The connection that is kept for a database. */
struct kept {
	struct db *db;
	sqlite3 *conn;
	bool idle;
	struct kept *next;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct kept *buckets[BUCKETS];

/* With the mutex held: the link that points to the database's entry, or to NULL. */
static struct kept **find(struct db *db)
{
	struct kept **link = &buckets[((uintptr_t)db >> 5) % BUCKETS];
	while (*link != NULL && (*link)->db != db) {
		link = &(*link)->next;
	}
	return link;
}

static void forget(struct db *db)
{
	struct kept **link = find(db);
	struct kept *kept = *link;
	if (kept != NULL) {
		*link = kept->next;
		free(kept);
	}
}

int glue_fsm_open(struct db *db, sqlite3 **conn);
int glue_fsm_open(struct db *db, sqlite3 **conn)
{
	struct glue_opened *last = glue_opened_here();
	last->db = db;
	last->conn = NULL;
	last->applied = false;
	pthread_mutex_lock(&mutex);
	struct kept *kept = *find(db);
	bool found = kept != NULL && kept->idle;
	if (found) {
		kept->idle = false;
		last->conn = *conn = kept->conn;
	}
	pthread_mutex_unlock(&mutex);
	if (found) {
		return SQLITE_OK;
	}
	int rv = db__open(db, conn);
	if (rv == SQLITE_OK) {
		last->conn = *conn;
	}
	return rv;
}

/* PRAGMA delete_database leaves one page that says that the database has none. */
static bool deletes(const struct vfsTransaction *transaction)
{
	static const char none[4];
	const char *page = transaction->n_pages == 1 ? transaction->pages[0] : NULL;
	return page != NULL && transaction->page_numbers[0] == 1 && memcmp(page + 28, none, sizeof none) == 0;
}

int glue_close_conn(sqlite3 *conn);

/* With the mutex held: the link that points to the entry of the database that `conn` has open, or NULL. */
static struct kept **find_same(sqlite3 *conn)
{
	sqlite3_vfs *vfs = NULL;
	sqlite3_file_control(conn, NULL, SQLITE_FCNTL_VFS_POINTER, &vfs);
	const char *name = sqlite3_db_filename(conn, NULL);
	for (size_t i = 0; i < BUCKETS; i++) {
		for (struct kept **link = &buckets[i]; *link != NULL; link = &(*link)->next) {
			/* Not by asking the other connection, which may be that of a lost node and locked for ever. */
			if ((*link)->db->vfs == vfs && strcmp((*link)->db->filename, name) == 0) {
				return link;
			}
		}
	}
	return NULL;
}

/* The engine removes a deleted database when the last connection to it is closed, so none is kept. */
static void let_go(sqlite3 *conn)
{
	sqlite3 *idle = NULL;
	pthread_mutex_lock(&mutex);
	struct kept **link = find_same(conn);
	if (link != NULL) {
		struct kept *kept = *link;
		idle = kept->idle ? kept->conn : NULL;
		*link = kept->next;
		free(kept);
	}
	pthread_mutex_unlock(&mutex);
	if (idle != NULL) {
		glue_close_conn(idle);
	}
}

/*
 * What is applied keeps the loop for a tenth of a second for each 64 MB. The followers hear with the next message that it is
 * committed, so they would do the same only then, and answer after it.
 */
enum { LARGE_PAGES = 256 };

static void tell_followers(struct raft *raft)
{
	for (unsigned i = 0; i < raft->configuration.n; i++) {
		raft->leader_state.progress[i].last_send = 0;
	}
	replicationHeartbeat(raft);
}

int glue_vfs_apply(sqlite3 *conn, const struct vfsTransaction *transaction);
int glue_vfs_apply(sqlite3 *conn, const struct vfsTransaction *transaction)
{
	struct glue_opened *last = glue_opened_here();
	struct raft *raft = glue_raft_here();
	if (transaction->n_pages >= LARGE_PAGES && raft->state == RAFT_LEADER && !glue_is_falling()) {
		tell_followers(raft);
	}
	bool deleted = deletes(transaction);
	if (deleted) {
		let_go(conn);
	}
	last->applied = last->conn == conn && !deleted;
	/* What INSERT OR FAIL keeps is applied behind its failure, and may bring a checkpoint. */
	struct glue_error error = glue_error_keep(conn);
	int rv = VfsApply(conn, transaction);
	glue_error_restore(conn, &error);
	return rv;
}

/* What the connection knows of the database is worth nothing afterwards: it is not kept. */
int glue_vfs_restore(sqlite3 *conn, const struct vfsSnapshot *snapshot);

int glue_fsm_restore(sqlite3 *conn, const struct vfsSnapshot *snapshot);
int glue_fsm_restore(sqlite3 *conn, const struct vfsSnapshot *snapshot)
{
	struct glue_opened *last = glue_opened_here();
	pthread_mutex_lock(&mutex);
	struct kept *kept = *find(last->db);
	if (last->conn == conn && kept != NULL && kept->conn == conn) {
		forget(last->db);
	}
	pthread_mutex_unlock(&mutex);
	int rv = glue_vfs_restore(conn, snapshot);
	if (rv == SQLITE_OK) {
		/* Those that are not in the snapshot come to stand in front; see deletion.c. */
		queue_remove(&last->db->queue);
		queue_insert_tail(&glue_registry_here()->dbs, &last->db->queue);
		last->restored++;
	}
	return rv;
}

/* With the mutex held: the entry that keeps this connection. A snapshot ends long after it has opened its own. */
static struct kept *find_conn(sqlite3 *conn)
{
	struct glue_opened *last = glue_opened_here();
	if (conn == last->conn) {
		struct kept *kept = *find(last->db);
		return kept != NULL && kept->conn == conn ? kept : NULL;
	}
	for (size_t i = 0; i < BUCKETS; i++) {
		for (struct kept *kept = buckets[i]; kept != NULL; kept = kept->next) {
			if (kept->conn == conn) {
				return kept;
			}
		}
	}
	return NULL;
}

/*
 * With the mutex held: the connection has applied a transaction, and its database has none that is at hand. One that is kept
 * and is not is a snapshot's, which ends long after; then this one takes its place, and that one is closed at its end.
 */
static struct kept *keep(sqlite3 *conn)
{
	struct glue_opened *last = glue_opened_here();
	struct kept **link = find(last->db);
	struct kept *kept = *link;
	if (conn != last->conn || !last->applied || (kept != NULL && kept->idle)) {
		return NULL;
	}
	if (kept == NULL && (kept = calloc(1, sizeof *kept)) != NULL) {
		kept->db = last->db;
		*link = kept;
	}
	if (kept != NULL) {
		kept->conn = conn;
	}
	return kept;
}

int glue_fsm_close(sqlite3 *conn);
int glue_fsm_close(sqlite3 *conn)
{
	pthread_mutex_lock(&mutex);
	struct kept *kept = find_conn(conn);
	if (kept == NULL) {
		kept = keep(conn);
	}
	if (kept != NULL) {
		kept->idle = true;
	}
	pthread_mutex_unlock(&mutex);
	return kept != NULL ? SQLITE_OK : glue_close_conn(conn);
}

void glue_db_close(struct db *db);
void glue_db_close(struct db *db)
{
	pthread_mutex_lock(&mutex);
	struct kept *kept = *find(db);
	sqlite3 *conn = kept != NULL && kept->idle ? kept->conn : NULL;
	forget(db);
	pthread_mutex_unlock(&mutex);
	if (conn != NULL) {
		glue_close_conn(conn);
	}
	db__close(db);
}
