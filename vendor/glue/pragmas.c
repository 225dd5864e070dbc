/*
 * Stand in for sqlite3_stmt_readonly in leader.c and sqlite3_set_authorizer in vfs.c: statements that are more than they say.
 *
 * PRAGMA optimize runs ANALYZE where it finds that this would help, and SQLite calls it read-only all the same. The engine
 * believes that: it lets the statement run beside another connection's transaction, and when what it wrote comes back from
 * the log, it is applied by another connection, which waits for the write lock of the first one for ever. So it is
 * taken for the write that it may be. As a table, pragma_optimize, it hides in a SELECT, and so does FTS3's function of that
 * name; there it is refused. (FTS3 has a statement for it, too.)
 *
 * Refused, too, are PRAGMAs that would change SQLite for the whole process: with a limit for its heap one client could take
 * the memory of all nodes. And an ATTACH whose file is the result of an expression: the engine looks at names in quotes
 * only, where nothing but '' may stand, so any file of the host could be opened, and a database of the node beside the log.
 */
#include <sqlite3.h>
#include <stdatomic.h>
#include <string.h>

#include "internal.h"

/* What SQLite takes for blanks between words; the mark of an UTF-8 file counts, and the vertical tab behind another one. */
static const char *past_blanks(const char *sql)
{
	for (;;) {
		const char *end = NULL;
		if (*sql != '\0' && strchr(" \t\n\v\f\r;", *sql) != NULL) {
			sql++;
			continue;
		}
		if (strncmp(sql, "\xef\xbb\xbf", 3) == 0) {
			sql += 3;
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
	return size == strlen(word) && sqlite3_strnicmp(name, word, (int)size) == 0;
}

bool glue_begins_with(sqlite3_stmt *stmt, const char *word)
{
	const char *sql = sqlite3_sql(stmt), *name;
	size_t size = sql != NULL ? name_at(&sql, &name) : 0;
	return size > 0 && is(name, size, word);
}

bool glue_is_pragma(sqlite3_stmt *stmt, const char *pragma)
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
	return is(name, size, pragma);
}

bool glue_optimizes(sqlite3_stmt *stmt)
{
	return glue_is_pragma(stmt, "optimize");
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

static bool is_refused(sqlite3 *conn, int action, const char *third, const char *fourth)
{
	switch (action) {
	case SQLITE_PRAGMA:
		/* Whoever sends a statement waits for its end, so while one runs, only SQLite itself compiles another one. */
		return (sqlite3_stricmp(third, "optimize") == 0 && !glue_has_ended(conn)) ||
		       (fourth != NULL && is_of_the_process(third));
	case SQLITE_FUNCTION:
		return sqlite3_stricmp(fourth, "optimize") == 0;
	case SQLITE_ATTACH:
		return third == NULL;
	default:
		return false;
	}
}

static int authorize(void *conn, int action, const char *third, const char *fourth, const char *fifth, const char *sixth)
{
	if (is_refused(conn, action, third, fourth)) {
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
