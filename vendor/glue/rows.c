/*
 * Stands in for query__batch in gateway.c: one part of a result, from SQLite's rows to the bytes of a ROWS message.
 *
 * The engine trusts a column's declared type: TEXT in a BOOLEAN column is an assertion, NULL there arrives as false, NULL
 * in a DATETIME column as "". Here the declared type counts only where the stored value fits it. The engine asks for it
 * for every value; here it is looked at once a part. The engine ends a part as soon as it fills a page: where the names of
 * the columns alone do that, every part ends before its first row, for ever. Here a part has at least one row and is as
 * long as PART says. And a statement that fails leaves nothing in front of its failure. The engine's buffer counts its size
 * in 32 bits, and is freed while it is used where that doubles to nothing: a row that does not fit is refused.
 */
#include <sqlite3.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "lib/buffer.h"
#include "protocol.h"

#include "internal.h"

enum { PART = 64 << 10 };
/* The largest answer; a megabyte is left for what stands around the row. */
#define LARGEST (((size_t)1 << 31) - ((size_t)1 << 20))

/* What a column's declared type makes of the values that fit it. SQLite has no more columns than MAX_COLUMNS. */
enum declared { NOTHING, TIME, BOOLEAN };
enum { MAX_COLUMNS = 32767 };

static size_t padded(size_t size)
{
	return (size + 7) & ~(size_t)7;
}

/* NULL: it does not fit, or memory is short. */
static void *advance(struct buffer *buffer, size_t size)
{
	return size <= LARGEST - buffer__offset(buffer) ? buffer__advance(buffer, size) : NULL;
}

static bool put_word(struct buffer *buffer, uint64_t word)
{
	void *place = advance(buffer, sizeof word);
	if (place != NULL) {
		memcpy(place, &word, sizeof word);
	}
	return place != NULL;
}

/* `size` bytes, and NULs up to the next word. */
static bool put_bytes(struct buffer *buffer, const void *bytes, size_t size, size_t room)
{
	char *place = advance(buffer, room);
	if (place != NULL) {
		memset(place + room - 8, 0, 8);
		memcpy(place, bytes, size);
	}
	return place != NULL;
}

static bool put_text(struct buffer *buffer, const void *text, size_t size)
{
	return put_bytes(buffer, text, size, padded(size + 1));
}

static bool put_blob(struct buffer *buffer, const void *bytes, size_t size)
{
	return put_word(buffer, size) && (size == 0 || put_bytes(buffer, bytes, size, padded(size)));
}

static bool put_names(struct buffer *buffer, sqlite3_stmt *stmt, int columns)
{
	bool fits = put_word(buffer, (uint64_t)columns);
	for (int i = 0; i < columns && fits; i++) {
		/* Some PRAGMAs of the engine have columns without a name. */
		const char *name = sqlite3_column_name(stmt, i);
		fits = put_text(buffer, name != NULL ? name : "", name != NULL ? strlen(name) : 0);
	}
	return fits;
}

static unsigned char declared_type(sqlite3_stmt *stmt, int column)
{
	const char *name = sqlite3_column_decltype(stmt, column);
	if (name == NULL) {
		return NOTHING;
	}
	if (strcasecmp(name, "BOOLEAN") == 0) {
		return BOOLEAN;
	}
	bool is_time = strcasecmp(name, "DATETIME") == 0 || strcasecmp(name, "DATE") == 0 ||
		       strcasecmp(name, "TIMESTAMP") == 0;
	return is_time ? TIME : NOTHING;
}

/* Writes a value and gives its type on the wire; 0 if memory is short. */
static unsigned put_value(struct buffer *buffer, sqlite3_value *value, enum declared declared)
{
	int type = sqlite3_value_type(value);
	switch (type) {
	case SQLITE_INTEGER:
		type = declared == NOTHING ? SQLITE_INTEGER : declared == TIME ? DQLITE_UNIXTIME : DQLITE_BOOLEAN;
		return put_word(buffer, (uint64_t)sqlite3_value_int64(value)) ? (unsigned)type : 0;
	case SQLITE_FLOAT: {
		double real = sqlite3_value_double(value);
		uint64_t word;
		memcpy(&word, &real, sizeof word);
		return put_word(buffer, word) ? SQLITE_FLOAT : 0;
	}
	case SQLITE_TEXT: {
		const unsigned char *text = sqlite3_value_text(value);
		size_t size = (size_t)sqlite3_value_bytes(value);
		if (text == NULL) {
			return 0;
		}
		if (memchr(text, '\0', size) != NULL) {
			/* On the wire a text ends at its first NUL; a blob does not. */
			return put_blob(buffer, text, size) ? SQLITE_BLOB : 0;
		}
		return !put_text(buffer, text, size) ? 0 : declared == TIME ? DQLITE_ISO8601 : SQLITE_TEXT;
	}
	case SQLITE_BLOB: {
		const void *bytes = sqlite3_value_blob(value);
		size_t size = (size_t)sqlite3_value_bytes(value);
		return (bytes != NULL || size == 0) && put_blob(buffer, bytes, size) ? SQLITE_BLOB : 0;
	}
	default:
		return put_word(buffer, 0) ? SQLITE_NULL : 0;
	}
}

/* A row: half a byte for the type of each value, then the values. */
static bool put_row(struct buffer *buffer, sqlite3_stmt *stmt, int columns, const unsigned char *declared)
{
	size_t header_size = padded(((size_t)columns + 1) / 2);
	size_t header = buffer__offset(buffer);
	void *place = advance(buffer, header_size);
	if (place == NULL) {
		return false;
	}
	memset(place, 0, header_size);
	for (int i = 0; i < columns; i++) {
		unsigned type = put_value(buffer, sqlite3_column_value(stmt, i), declared[i]);
		if (type == 0) {
			return false;
		}
		/* The buffer may have moved. */
		unsigned char *types = buffer__cursor(buffer, header);
		types[i / 2] |= (unsigned char)(i % 2 == 0 ? type : type << 4);
	}
	return true;
}

int glue_query_batch(sqlite3_stmt *stmt, struct buffer *buffer);
int glue_query_batch(sqlite3_stmt *stmt, struct buffer *buffer)
{
	unsigned char declared[MAX_COLUMNS];
	size_t start = buffer__offset(buffer);
	if (!glue_deletion_step_begins(stmt)) {
		return SQLITE_ERROR;
	}
	/* First of all: if the schema has changed, the statement has other columns afterwards. */
	int rv = sqlite3_step(stmt);
	glue_deletion_step_ended();
	if (rv != SQLITE_ROW && rv != SQLITE_DONE) {
		return rv;
	}
	int columns = sqlite3_column_count(stmt);
	bool fits = put_names(buffer, stmt, columns);
	for (int i = 0; i < columns && rv == SQLITE_ROW; i++) {
		declared[i] = declared_type(stmt, i);
	}
	while (rv == SQLITE_ROW && fits) {
		fits = put_row(buffer, stmt, columns, declared);
		if (!fits || buffer__offset(buffer) - start >= PART) {
			break;
		}
		rv = sqlite3_step(stmt);
	}
	if (!fits) {
		rv = SQLITE_NOMEM;
	}
	if (rv != SQLITE_ROW && rv != SQLITE_DONE) {
		buffer->offset = start;
	}
	return rv;
}
