/*
 * PRAGMA delete_database, which is to be the only change between BEGIN IMMEDIATE and COMMIT.
 *
 * The engine remembers the wish when the text is compiled, and deletes when the transaction ends: also by ROLLBACK or with
 * the client's connection, where nobody sends what it wrote and the database takes no write any more, and also if the text
 * was never run, behind EXPLAIN or another statement. Here it deletes when COMMIT runs (or END) and the PRAGMA was run in that
 * transaction. What changes anything behind it would be deleted with the rest, or instead of it, so then COMMIT is refused.
 */
#include <sqlite3.h>
#include <stdatomic.h>

#include "internal.h"

/* Connections in a transaction with the PRAGMA: mostly none, and then no statement pays for this. */
static atomic_uint wished;

/* The statement that this thread runs ends such a transaction. */
static __thread bool commits;

static enum glue_wish wish_of(sqlite3 *conn)
{
	enum glue_wish *wish = glue_wish_of(conn);
	return wish != NULL ? *wish : GLUE_WISHES_NOTHING;
}

static void set_wish(sqlite3 *conn, enum glue_wish wanted)
{
	enum glue_wish *wish = glue_wish_of(conn);
	if (wish != NULL) {
		atomic_fetch_add(&wished, (unsigned)((wanted != GLUE_WISHES_NOTHING) - (*wish != GLUE_WISHES_NOTHING)));
		*wish = wanted;
	}
}

/* What becomes of the wish, in a transaction that goes on, behind a statement that ran well. */
static enum glue_wish behind(enum glue_wish wish, sqlite3_stmt *stmt)
{
	if (glue_is_pragma(stmt, "delete_database")) {
		return wish == GLUE_WISHES_TOO_MUCH ? wish : GLUE_WISHES_DELETION;
	}
	if (wish == GLUE_WISHES_DELETION && glue_begins_with(stmt, "ROLLBACK")) {
		/* To a savepoint from before it: there is none of later. */
		return GLUE_WISHES_NOTHING;
	}
	bool changes = (!glue_stmt_readonly(stmt) && !sqlite3_stmt_isexplain(stmt)) || glue_begins_with(stmt, "SAVEPOINT");
	return wish == GLUE_WISHES_DELETION && changes ? GLUE_WISHES_TOO_MUCH : wish;
}

void glue_deletion_executed(sqlite3 *conn, sqlite3_stmt *stmt, bool well)
{
	bool asks = well && stmt != NULL && glue_is_pragma(stmt, "delete_database");
	if (!asks && atomic_load(&wished) == 0) {
		return;
	}
	if (sqlite3_get_autocommit(conn)) {
		set_wish(conn, GLUE_WISHES_NOTHING);
	} else if (well && stmt != NULL) {
		set_wish(conn, behind(wish_of(conn), stmt));
	}
}

void glue_deletion_forget(sqlite3 *conn)
{
	if (atomic_load(&wished) > 0) {
		set_wish(conn, GLUE_WISHES_NOTHING);
	}
}

bool glue_deletion_step_begins(sqlite3_stmt *stmt)
{
	if (atomic_load(&wished) == 0 || !(glue_begins_with(stmt, "COMMIT") || glue_begins_with(stmt, "END"))) {
		return true;
	}
	sqlite3 *conn = sqlite3_db_handle(stmt);
	enum glue_wish wish = wish_of(conn);
	if (wish == GLUE_WISHES_TOO_MUCH) {
		sqlite3_set_errmsg(conn, SQLITE_ERROR,
				   "PRAGMA delete_database cannot be committed with changes behind it: ROLLBACK, and run it as the "
				   "one statement between BEGIN IMMEDIATE and COMMIT");
		return false;
	}
	commits = wish == GLUE_WISHES_DELETION;
	return true;
}

void glue_deletion_step_ended(void)
{
	commits = false;
}

/* Called from vfs.c, when a transaction ends in which the PRAGMA was compiled. */
bool glue_deletion_is_committed(void);
bool glue_deletion_is_committed(void)
{
	return commits;
}
