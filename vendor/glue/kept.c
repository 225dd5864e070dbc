/*
 * Stand in for sqlite3_prepare_v2 in leader.c and sqlite3_finalize in gateway.c: a text that a connection sends again and
 * again is compiled once. That is more than half of what a short statement costs.
 *
 * A text is kept when it comes for the second time. SQLite compiles a kept statement anew when the schema has changed; what
 * it does while compiling, as with most PRAGMAs, must happen each time, so only statements that work on rows are kept.
 */
#include <sqlite3.h>
#include <string.h>
#include <strings.h>

#include "internal.h"

enum { LONGEST = 4096 };

static uint32_t hash_of(const char *sql, size_t size)
{
	uint32_t hash = 2166136261u;
	for (size_t i = 0; i < size; i++) {
		hash = (hash ^ (unsigned char)sql[i]) * 16777619u;
	}
	return hash;
}

static bool works_on_rows(const char *sql)
{
	static const char *const verbs[] = { "SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH", "VALUES" };
	for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
		if (strncasecmp(sql, verbs[i], strlen(verbs[i])) == 0) {
			return true;
		}
	}
	return false;
}

int glue_prepare(sqlite3 *conn, const char *sql, int size, sqlite3_stmt **stmt, const char **tail);
int glue_prepare(sqlite3 *conn, const char *sql, int size, sqlite3_stmt **stmt, const char **tail)
{
	/* The statements behind it may be many. */
	size_t length = strnlen(sql, LONGEST + 1);
	struct glue_kept *kept = works_on_rows(sql) && length <= LONGEST ? glue_kept_of(conn) : NULL;
	if (kept != NULL) {
		sqlite3_stmt **place = &kept->stmt[hash_of(sql, length) % GLUE_KEPT];
		if (*place != NULL && strcmp(sqlite3_sql(*place), sql) == 0) {
			*stmt = *place;
			*tail = sql + length;
			*place = NULL;
			return SQLITE_OK;
		}
	}
	int rv = sqlite3_prepare_v2(conn, sql, size, stmt, tail);
	if (rv == SQLITE_OK && *stmt != NULL) {
		glue_bounds_compiled(glue_bounds_of(conn), sql);
	}
	return rv;
}

int glue_finalize(sqlite3_stmt *stmt);
int glue_finalize(sqlite3_stmt *stmt)
{
	const char *sql = stmt != NULL ? sqlite3_sql(stmt) : NULL;
	size_t length = sql != NULL ? strlen(sql) : 0;
	struct glue_kept *kept =
		sql != NULL && length <= LONGEST && works_on_rows(sql) ? glue_kept_of(sqlite3_db_handle(stmt)) : NULL;
	if (kept == NULL) {
		return sqlite3_finalize(stmt);
	}
	uint32_t hash = hash_of(sql, length);
	sqlite3_stmt **place = &kept->stmt[hash % GLUE_KEPT];
	uint32_t *seen = &kept->seen[hash % GLUE_KEPT];
	if (*seen != hash) {
		*seen = hash;
		return sqlite3_finalize(stmt);
	}
	int rv = sqlite3_reset(stmt);
	sqlite3_clear_bindings(stmt);
	sqlite3_finalize(*place);
	*place = stmt;
	return rv;
}

void glue_kept_clear(struct glue_kept *kept)
{
	for (int i = 0; i < GLUE_KEPT; i++) {
		sqlite3_finalize(kept->stmt[i]);
		kept->stmt[i] = NULL;
	}
}
