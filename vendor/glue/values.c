/*
 * Stand in for functions in query.c, where the engine decides how values travel.
 *
 * The engine trusts a column's declared type: TEXT in a BOOLEAN column is an assertion, NULL there arrives as false, NULL
 * in a DATETIME column as "". Here the declared type counts only where the stored value fits it.
 */
#include <sqlite3.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

#include "lib/buffer.h"

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

/* A pragma that the engine's VFS answers (delete_database) yields a column without a name, and the engine measures NULL. */
const char *glue_column_name(sqlite3_stmt *stmt, int column);
const char *glue_column_name(sqlite3_stmt *stmt, int column)
{
	const char *name = sqlite3_column_name(stmt, column);
	return name != NULL ? name : "";
}

/*
 * How a result is cut into parts. The engine ends a part as soon as it fills a page. Where the names of the columns alone
 * do that, every part ends before its first row, for ever; and where they do not, a part of 4 kB is so small that a large
 * result spends its time between two threads. Here a part has at least one row, and is sixteen pages long.
 *
 * sqlite3_column_count is the first call for a part, buffer__offset the question whether it is full, before each row.
 */
enum { PAGES_PER_PART = 16 };

static __thread struct {
	bool is_empty;
	size_t row_header; /* bytes that tell the types of a row, half a byte for each column */
} part;

int glue_part_begins(sqlite3_stmt *stmt);
int glue_part_begins(sqlite3_stmt *stmt)
{
	int columns = sqlite3_column_count(stmt);
	part.is_empty = true;
	part.row_header = ((size_t)columns + 15) / 16 * 8;
	return columns;
}

size_t glue_part_fill(struct buffer *buffer);
size_t glue_part_fill(struct buffer *buffer)
{
	/* The engine clears the header of a row before it makes room for it, and so writes behind its buffer. */
	if (buffer__advance(buffer, part.row_header) != NULL) {
		buffer->offset -= part.row_header;
	}
	if (part.is_empty) {
		part.is_empty = false;
		return 0;
	}
	return buffer__offset(buffer) / PAGES_PER_PART;
}
