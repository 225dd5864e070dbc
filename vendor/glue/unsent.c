/*
 * What a connection has committed and the engine sends to nobody. The connection keeps the write lock for it, and its next
 * write is an assertion; where it was closed meanwhile, the database takes no write any more.
 *
 * The engine fetches what was committed only after a statement that succeeded. So it is taken back here, as what a leader
 * could not replicate is: behind statements that failed, and when a transaction is rolled back, because PRAGMA
 * delete_database writes its page whenever the transaction ends, be it by COMMIT or not.
 */
#include <sqlite3.h>

#include "vfs.h"

#include "internal.h"

void glue_take_back(sqlite3 *conn)
{
	struct vfsTransaction transaction = { 0 };
	if (VfsPoll(conn, &transaction) != SQLITE_OK || transaction.n_pages == 0) {
		return;
	}
	for (unsigned i = 0; i < transaction.n_pages; i++) {
		sqlite3_free(transaction.pages[i]);
	}
	sqlite3_free(transaction.pages);
	sqlite3_free(transaction.page_numbers);
	VfsAbort(conn);
}

static void rolled_back(void *conn)
{
	glue_take_back(conn);
}

void glue_watch_rollbacks(sqlite3 *conn)
{
	if (CURE_ROLLED_BACK) {
		sqlite3_rollback_hook(conn, rolled_back, conn);
	}
}

/* To close it rolls back, too, but then it answers no questions any more. */
void glue_end_transaction(sqlite3 *conn)
{
	if (CURE_ROLLED_BACK && !sqlite3_get_autocommit(conn)) {
		sqlite3_exec(conn, "ROLLBACK", NULL, NULL, NULL);
		sqlite3_rollback_hook(conn, NULL, NULL);
	}
}
