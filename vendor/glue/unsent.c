/*
 * Stands in for VfsAbort in leader.c: what a connection has committed and the engine sends to nobody. The connection keeps the
 * write lock for it, and its next write is an assertion; where it was closed meanwhile, the database takes no write any more.
 *
 * The engine fetches what was committed only after a statement that succeeded. So behind statements that failed it is taken
 * back here, as what a leader could not replicate is. So is what is too large to be replicated at all.
 */
#include <sqlite3.h>

#include "conn.h"
#include "gateway.h"
#include "leader.h"
#include "vfs.h"

#include "internal.h"

struct glue_error glue_error_keep(sqlite3 *conn)
{
	int code = sqlite3_extended_errcode(conn);
	bool failed = code != SQLITE_OK && code != SQLITE_ROW && code != SQLITE_DONE;
	return (struct glue_error){ code, failed ? sqlite3_mprintf("%s", sqlite3_errmsg(conn)) : NULL };
}

void glue_error_restore(sqlite3 *conn, struct glue_error *error)
{
	if (error->message != NULL) {
		sqlite3_set_errmsg(conn, error->code, error->message);
		sqlite3_free(error->message);
	}
}

/*
 * The connection knows the schema by a number that grows by one. It has seen the next one, which somebody else's change will
 * have as well, and would then believe that it knows that, too. What makes it read the schema again also turns off that it may
 * be written, which the client may have turned on.
 */
static void forget_schema(sqlite3 *conn)
{
	if (!CURE_SCHEMA) {
		return;
	}
	struct glue_error error = glue_error_keep(conn);
	int writable = 0;
	sqlite3_db_config(conn, SQLITE_DBCONFIG_WRITABLE_SCHEMA, -1, &writable);
	sqlite3_exec(conn, "PRAGMA writable_schema = RESET", NULL, NULL, NULL);
	sqlite3_db_config(conn, SQLITE_DBCONFIG_WRITABLE_SCHEMA, writable, NULL);
	glue_error_restore(conn, &error);
}

int glue_vfs_abort(sqlite3 *conn);
int glue_vfs_abort(sqlite3 *conn)
{
	int rv = VfsAbort(conn);
	forget_schema(conn);
	return rv;
}

void glue_take_back(sqlite3 *conn)
{
	struct vfsTransaction transaction = { 0 };
	if (VfsPoll(conn, &transaction) != SQLITE_OK || transaction.n_pages == 0) {
		return;
	}
	for (unsigned i = 0; i < transaction.n_pages; i++) {
		(CURE_PAGES ? glue_page_free : sqlite3_free)(transaction.pages[i]);
	}
	sqlite3_free(transaction.pages);
	sqlite3_free(transaction.page_numbers);
	glue_vfs_abort(conn);
}

/*
 * A statement that failed with rows left has done its work: to reset it commits that, or makes it a part of the open
 * transaction, which then ends as SQLite ends one for want of memory.
 */
void glue_failed(struct leader *leader, sqlite3_stmt *stmt)
{
	/* One that found the database locked waits at its beginning, and may be tried again. */
	if (stmt != NULL && sqlite3_stmt_busy(stmt) && sqlite3_errcode(leader->conn) == SQLITE_ROW) {
		bool wrote = !sqlite3_stmt_readonly(stmt);
		sqlite3_reset(stmt);
		if (!wrote) {
			sqlite3_set_errmsg(leader->conn, SQLITE_NOMEM, "out of memory for the rows of the answer");
		} else if (!sqlite3_get_autocommit(leader->conn)) {
			sqlite3_exec(leader->conn, "ROLLBACK", NULL, NULL, NULL);
		}
	}
	glue_take_back(leader->conn);
}

/*
 * A net for statements that SQLite calls read-only and that write (pragmas.c knows some): what they wrote is applied by the
 * connection that holds the lock only if that is the one that the database works for.
 */
bool glue_adopt(struct leader *leader)
{
	struct db *db = leader->db;
	if (db->active_leader == NULL) {
		db->active_leader = leader;
	}
	return db->active_leader == leader;
}

/* The same for one that has left a transaction open; false if that was ended. */
bool glue_adopt_writer(struct leader *leader)
{
	if (sqlite3_txn_state(leader->conn, NULL) != SQLITE_TXN_WRITE || glue_adopt(leader)) {
		return true;
	}
	sqlite3_exec(leader->conn, "ROLLBACK", NULL, NULL, NULL);
	return false;
}

/*
 * What one write to the disk holds, with room for what is written together with it. The engine counts the bytes of a
 * transaction in 32 bits: for one of 4 GiB it took a buffer for the rest, and wrote all of it there.
 */
static const uint64_t LARGEST = ((uint64_t)1 << 31) - ((uint64_t)1 << 24);

/* In place of the engine's question whether the database is full, which it never is. Called from leader.c. */
bool glue_is_too_large(struct exec *exec, unsigned pages);
bool glue_is_too_large(struct exec *exec, unsigned pages)
{
	uint64_t page_size = exec->leader->db->config->vfs.page_size;
	if ((uint64_t)pages * (page_size + sizeof(uint64_t)) <= LARGEST) {
		return false;
	}
	sqlite3_set_errmsg(exec->leader->conn, SQLITE_FULL,
			   "what a transaction changes, 2 GiB or more, is too much for the log; do it in several");
	return true;
}
