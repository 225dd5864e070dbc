/*
 * Stand in for sqlite3_stmt_readonly in leader.c and sqlite3_set_authorizer in vfs.c.
 *
 * PRAGMA optimize runs ANALYZE where it finds that this would help, and SQLite calls it read-only all the same. The engine
 * believes that: it lets the statement run beside another connection's transaction, and when what it wrote comes back from
 * the log, it is applied by another connection, which waits for the write lock of the first one for ever. So it is
 * taken for the write that it may be. As a table, pragma_optimize, it hides in a SELECT; there it is refused.
 *
 * Refused, too, are those that would change SQLite for the whole process: with a limit for its heap one client could take
 * the memory of all nodes.
 */
#include <sqlite3.h>
#include <stdatomic.h>
#include <string.h>
#include <strings.h>

#include "internal.h"

static const char *past_blanks(const char *sql)
{
	for (;;) {
		const char *end = NULL;
		if (*sql != '\0' && strchr(" \t\n\f\r;", *sql) != NULL) {
			sql++;
			continue;
		}
		if (strncmp(sql, "--", 2) == 0) {
			end = strchr(sql, '\n');
		} else if (strncmp(sql, "/*", 2) == 0 && (end = strstr(sql + 2, "*/")) != NULL) {
			end++;
		}
		if (end == NULL) {
			return sql;
		}
		sql = end + 1;
	}
}

static bool goes_on(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '$' ||
	       (unsigned char)c >= 0x80;
}

/* The name that begins here, without its quotes, and where it ends. One with a quote in it is none that matters. */
static size_t name_at(const char **sql, const char **name)
{
	static const char opening[] = "\"'`[", closing[] = "\"'`]";
	*sql = past_blanks(*sql);
	const char *quote = **sql != '\0' ? strchr(opening, **sql) : NULL;
	const char *end;
	if (quote != NULL) {
		*name = *sql + 1;
		end = strchr(*name, closing[quote - opening]);
		end = end != NULL ? end : *name + strlen(*name);
		*sql = *end != '\0' ? end + 1 : end;
	} else {
		for (end = *name = *sql; goes_on(*end); end++) {
		}
		*sql = end;
	}
	return (size_t)(end - *name);
}

static bool is(const char *name, size_t size, const char *word)
{
	return size == strlen(word) && strncasecmp(name, word, size) == 0;
}

bool glue_optimizes(sqlite3_stmt *stmt)
{
	const char *sql = sqlite3_sql(stmt), *name;
	size_t size = sql != NULL ? name_at(&sql, &name) : 0;
	if (size == 0 || !is(name, size, "PRAGMA")) {
		return false;
	}
	size = name_at(&sql, &name);
	sql = past_blanks(sql);
	if (*sql == '.') {
		sql++;
		size = name_at(&sql, &name);
	}
	return is(name, size, "optimize");
}

int glue_stmt_readonly(sqlite3_stmt *stmt)
{
	return sqlite3_stmt_readonly(stmt) && !glue_optimizes(stmt);
}

static int (*_Atomic engine_authorizer)(void *, int, const char *, const char *, const char *, const char *);

static bool is_of_the_process(const char *pragma)
{
	static const char *const names[] = { "hard_heap_limit", "soft_heap_limit", "temp_store_directory" };
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		if (sqlite3_stricmp(pragma, names[i]) == 0) {
			return true;
		}
	}
	return false;
}

/* Whoever sends a statement waits for its end, so while one runs, only SQLite itself compiles another one. */
static int authorize(void *conn, int action, const char *third, const char *fourth, const char *fifth, const char *sixth)
{
	if (action == SQLITE_PRAGMA &&
	    ((sqlite3_stricmp(third, "optimize") == 0 && !glue_has_ended(conn)) ||
	     (fourth != NULL && is_of_the_process(third)))) {
		return SQLITE_DENY;
	}
	return atomic_load(&engine_authorizer)(NULL, action, third, fourth, fifth, sixth);
}

int glue_set_authorizer(sqlite3 *conn,
			int (*callback)(void *, int, const char *, const char *, const char *, const char *),
			void *arg);
int glue_set_authorizer(sqlite3 *conn,
			int (*callback)(void *, int, const char *, const char *, const char *, const char *),
			void *arg)
{
	(void)arg; /* The engine's own has none. */
	atomic_store(&engine_authorizer, callback);
	return sqlite3_set_authorizer(conn, authorize, conn);
}
