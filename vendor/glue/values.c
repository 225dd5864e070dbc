/*
 * Stand in for two SQLite functions in query.c, where the engine decides how a value travels.
 *
 * The engine trusts a column's declared type: TEXT in a BOOLEAN column is an assertion, NULL there arrives as false, NULL
 * in a DATETIME column as "". Here the declared type counts only where the stored value fits it.
 */
#include <sqlite3.h>
#include <string.h>
#include <stdbool.h>
#include <strings.h>

const char *glue_column_decltype(sqlite3_stmt *stmt, int column);
const char *glue_column_decltype(sqlite3_stmt *stmt, int column)
{
	const char *declared = sqlite3_column_decltype(stmt, column);
	if (declared == NULL) {
		return NULL;
	}
	int stored = sqlite3_column_type(stmt, column);
	if (strcasecmp(declared, "BOOLEAN") == 0) {
		return stored == SQLITE_INTEGER ? declared : NULL;
	}
	bool is_time = strcasecmp(declared, "DATETIME") == 0 || strcasecmp(declared, "DATE") == 0 ||
		       strcasecmp(declared, "TIMESTAMP") == 0;
	if (!is_time || stored == SQLITE_INTEGER) {
		return declared;
	}
	/* A text with a NUL goes as a blob (glue_column_type), which no time type can carry. */
	int glue_column_type(sqlite3_stmt *, int);
	return stored == SQLITE_TEXT && glue_column_type(stmt, column) == SQLITE_TEXT ? declared : NULL;
}

/* On the wire a text ends at its first NUL; a blob does not. */
int glue_column_type(sqlite3_stmt *stmt, int column);
int glue_column_type(sqlite3_stmt *stmt, int column)
{
	int type = sqlite3_column_type(stmt, column);
	if (type == SQLITE_TEXT) {
		const unsigned char *text = sqlite3_column_text(stmt, column);
		int size = sqlite3_column_bytes(stmt, column);
		if (text != NULL && memchr(text, '\0', (size_t)size) != NULL) {
			return SQLITE_BLOB;
		}
	}
	return type;
}
