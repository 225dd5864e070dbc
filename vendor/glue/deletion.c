/*
 * PRAGMA delete_database, which is to be the only statement between BEGIN IMMEDIATE and COMMIT.
 *
 * The engine remembers the wish when the text is compiled, and deletes when the transaction ends: also by ROLLBACK or with
 * the client's connection, where nobody sends what it wrote and the database takes no write any more, and also if the text
 * was never run, behind EXPLAIN or another statement. Here it deletes when COMMIT runs (or END) and the statement before it on
 * that connection was the PRAGMA.
 */
#include <sqlite3.h>
#include <stdatomic.h>

#include "internal.h"

/* Connections whose last statement was the PRAGMA: mostly none, and then no statement pays for this. */
static atomic_uint wished;

/* The statement that this thread runs ends such a transaction. */
static __thread bool commits;

static void wish(sqlite3 *conn, bool wanted)
{
	bool *wishes = glue_wish_of(conn);
	if (wishes != NULL && *wishes != wanted) {
		*wishes = wanted;
		wanted ? atomic_fetch_add(&wished, 1) : atomic_fetch_sub(&wished, 1);
	}
}

void glue_deletion_executed(sqlite3 *conn, sqlite3_stmt *stmt, bool well)
{
	bool wanted = well && stmt != NULL && glue_is_pragma(stmt, "delete_database");
	if (wanted || atomic_load(&wished) > 0) {
		wish(conn, wanted);
	}
}

void glue_deletion_forget(sqlite3 *conn)
{
	if (atomic_load(&wished) > 0) {
		wish(conn, false);
	}
}

void glue_deletion_step_begins(sqlite3_stmt *stmt)
{
	if (atomic_load(&wished) > 0 && (glue_begins_with(stmt, "COMMIT") || glue_begins_with(stmt, "END"))) {
		bool *wishes = glue_wish_of(sqlite3_db_handle(stmt));
		commits = wishes != NULL && *wishes;
	}
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
