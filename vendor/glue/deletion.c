/*
 * PRAGMA delete_database, which is to be the only change between BEGIN IMMEDIATE and COMMIT.
 *
 * The engine remembers the wish when the text is compiled, and deletes when the transaction ends: also by ROLLBACK or with
 * the client's connection, where nobody sends what it wrote and the database takes no write any more, and also if the text
 * was never run, behind EXPLAIN or another statement. Here it deletes when COMMIT runs (or END) and the PRAGMA was run in that
 * transaction. What changes anything behind it would be deleted with the rest, or instead of it, so then COMMIT is refused.
 *
 * And a database that was deleted while a member was away, which catches up by a snapshot without it.
 */
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "db.h"
#include "lib/assert.h"
#include "lib/byte.h"
#include "raft.h"
#include "registry.h"
#include "vfs.h"

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

/* The page that PRAGMA delete_database leaves: no table, and a size of none. The header says what the page size is. */
static void empty_page(uint8_t *page, uint32_t size)
{
	enum { HEADER = 100, NUMBER_OF_PAGES = 28, FREE_PAGES = 32, COOKIE = 40, VACUUM_ROOT = 52, VERSION = 60, VACUUM_MODE = 64,
	       APPLICATION = 68, LEAF_OF_TABLE = 0x0d, CELLS_BEGIN = 5 };
	static const int none[] = { NUMBER_OF_PAGES, FREE_PAGES, FREE_PAGES + 4, VACUUM_ROOT, VERSION, VACUUM_MODE, APPLICATION };
	for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
		memset(page + none[i], 0, 4);
	}
	BytePutBe32(ByteGetBe32(page + COOKIE) + 1, page + COOKIE);
	memset(page + HEADER, 0, size - HEADER);
	page[HEADER] = LEAF_OF_TABLE;
	page[HEADER + CELLS_BEGIN] = (uint8_t)(size >> 8);
	page[HEADER + CELLS_BEGIN + 1] = (uint8_t)size;
}

int glue_fsm_open(struct db *db, sqlite3 **conn);
int glue_vfs_apply(sqlite3 *conn, const struct vfsTransaction *transaction);
int glue_fsm_close(sqlite3 *conn);

static int delete(struct db *db)
{
	sqlite3 *conn;
	struct vfsSnapshot now;
	uint64_t number = 1;
	int rv = glue_fsm_open(db, &conn);
	if (rv != SQLITE_OK) {
		return rv;
	}
	rv = VfsAcquireSnapshot(conn, &now);
	if (rv == SQLITE_OK) {
		uint32_t size = (uint32_t)now.page_size;
		void *page = malloc(size);
		if (page != NULL) {
			memcpy(page, now.pages[0], size);
			empty_page(page, size);
		}
		VfsReleaseSnapshot(conn, &now);
		struct vfsTransaction deletion = { .n_pages = 1, .page_numbers = &number, .pages = &page };
		rv = page != NULL ? glue_vfs_apply(conn, &deletion) : SQLITE_NOMEM;
		free(page);
	}
	glue_fsm_close(conn); /* the last one, and the database goes with it */
	return rv;
}

/*
 * The engine never takes away what a snapshot does not name. A database that was deleted while this member was away came back
 * where the others had none, with rows for whoever read there when this one led.
 */
int glue_restore_all(struct raft_fsm *fsm, struct raft_buffer *from)
{
	struct glue_opened *last = glue_opened_here();
	struct registry *registry = glue_registry_here();
	last->restored = 0;
	int rv = fsm->restore(fsm, from);
	for (size_t left = registry->size - last->restored; rv == 0 && CURE_DELETED && left > 0; left--) {
		struct db *db = QUEUE_DATA(queue_head(&registry->dbs), struct db, queue);
		/* If a checkpoint came with it, it stays, empty. */
		queue_remove(&db->queue);
		queue_insert_tail(&registry->dbs, &db->queue);
		if (delete(db) != SQLITE_OK) {
			dqlite_fail("a database that the leader's snapshot does not hold could be deleted; starting the node again "
				    "does it", __FILE__, __LINE__, __func__);
		}
	}
	return rv;
}
