/*
 * Which statements end soon whatever the database holds, so that they may run on the loop's thread without being
 * interrupted: SQLite takes back a whole transaction if a write inside of it is interrupted (quick.c).
 *
 * Asked is the program that SQLite has compiled, by EXPLAIN. It may hold only instructions of the list below, each of which
 * takes the time of a look-up, and none that jumps back: no scans, no triggers, no virtual tables, no functions but a few,
 * and nothing that reads or frees what a row held before, which may be large. What is left are rows that are inserted, one
 * with each statement, into tables with indexes, checks and foreign keys; and the end of a transaction that did no more.
 *
 * What was found holds for a text and a version of the schema. Nobody else changes the schema while a statement runs here,
 * and what else changes programs (settings, temporary objects) comes by statements of the same connection, which are seen.
 */
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "internal.h"

/* A longer text is not looked at; nor are more inserts than a table with many indexes needs. */
enum { LONGEST = 4096, MOST_INSERTS = 64 };
/* About so long takes the commit of what took so long to write. */
enum { COMMITTED_NS = 1000 * 1000 };

/* What an instruction may do. */
enum kind {
	ANYTHING,
	GO_ON,
	HALT,
	INSERT,	  /* into a table or an index, where something may stand already */
	NEW,	  /* makes a rowid that is not there */
	UNLESS,	  /* goes past the next instruction if no such row is there */
	OPEN,
	CALL,	  /* of a function */
	BEGIN,	  /* a transaction, with the version of the schema */
	CONTROL,  /* what COMMIT and SAVEPOINT do */
	READ,	  /* what stands in a row */
	JUMP,
	MAY_FAIL, /* or jump, if that is not to 0 */
	REWIND,
	NEXT,
};

static enum kind kind_of(const char *opcode)
{
	static const struct {
		enum kind kind;
		const char *opcodes;
	} known[] = {
		{ GO_ON, " Add AddImm Affinity BitAnd BitNot BitOr Blob Cast Close Copy Divide FkCounter HaltIfNull Int64 IntCopy "
			 "Integer IsTrue MakeRecord MemMax Move Multiply Noop Not Null Real RealAffinity ReleaseReg "
			 "Remainder SCopy ShiftLeft ShiftRight SoftNull String8 Subtract TypeCheck Variable " },
		{ HALT, " Halt " },
		{ INSERT, " IdxInsert Insert " },
		{ NEW, " NewRowid " },
		{ UNLESS, " NoConflict NotExists " },
		{ OPEN, " OpenRead OpenWrite " },
		{ CALL, " Function PureFunc " },
		{ BEGIN, " Transaction " },
		{ CONTROL, " AutoCommit Savepoint " },
		{ READ, " Column Rowid " },
		{ JUMP, " Eq FkIfZero Found Ge Goto Gt If IfNot IsNull Le Lt Ne NotFound NotNull " },
		{ MAY_FAIL, " MustBeInt " },
		{ REWIND, " Rewind " },
		{ NEXT, " Next " },
	};
	char name[32];
	snprintf(name, sizeof name, " %s ", opcode);
	for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
		if (strstr(known[i].opcodes, name) != NULL) {
			return known[i].kind;
		}
	}
	return ANYTHING;
}

/* Those that defaults and checks use, and that take no longer than a look at their arguments. */
static bool is_short(const char *function)
{
	static const char known[] = " abs current_date current_time current_timestamp date datetime json_valid julianday length "
				    "lower random strftime time typeof unixepoch upper ";
	char name[32];
	snprintf(name, sizeof name, " %.*s ", (int)strcspn(function, "("), function);
	return strstr(known, name) != NULL;
}

/* The first number of the first row; -1: there is none. */
static int64_t ask(sqlite3 *conn, const char *sql)
{
	sqlite3_stmt *stmt = NULL;
	int64_t found = -1;
	if (sqlite3_prepare_v2(conn, sql, -1, &stmt, NULL) == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
		found = sqlite3_column_int64(stmt, 0);
	}
	sqlite3_finalize(stmt);
	return found;
}

/* Where AUTOINCREMENT keeps its numbers, if those are few: that table is looked through from its beginning. */
static int64_t sequence_root(sqlite3 *conn)
{
	return ask(conn, "SELECT rootpage FROM main.sqlite_schema WHERE name = 'sqlite_sequence' AND "
			 "(SELECT count(*) FROM (SELECT 1 FROM main.sqlite_sequence LIMIT 101)) <= 100");
}

/*
 * A program as EXPLAIN lists it. It begins with a jump to its tail, where the transaction begins and constants are made;
 * the tail ends with a jump to the second instruction.
 */
struct walk {
	sqlite3 *conn;
	int tail;
	int inserts;
	uint64_t safe; /* the cursors through which no row is inserted where one stands */
	int refusal;   /* where it has to be refused that one stands there; -1: nowhere */
	int cursor; /* opened last, and on what */
	int root;
	int loop;  /* where the loop over that cursor begins; -1: there is none */
	bool over; /* the tail's last jump was seen */
	bool controls;
	bool begins;
	int schema;
};

static bool may_jump(const struct walk *walk, int from, int to)
{
	return to > from && (from >= walk->tail || to < walk->tail);
}

static uint64_t bit(int cursor)
{
	return cursor >= 0 && cursor < 64 ? (uint64_t)1 << cursor : 0;
}

/* SQLite's mark of the row itself, rather than of an entry in an index. */
enum { COUNTS = 1 };

/* The next instruction, at this address, is none that could take long. */
static bool step(struct walk *walk, int at, const char *opcode, int p1, int p2, int p3, const char *p4, int p5)
{
	enum kind kind = kind_of(opcode);
	bool leaves = kind == HALT || strcmp(opcode, "Goto") == 0;
	if (walk->over || (at + 1 == walk->tail && kind != HALT) || (at == walk->refusal && !leaves)) {
		return false;
	}
	switch (kind) {
	case ANYTHING:
		return false;
	case GO_ON:
	case HALT:
		return true;
	case INSERT:
		return ++walk->inserts <= MOST_INSERTS && ((p5 & COUNTS) == 0 || (walk->safe & bit(p1)) != 0);
	case NEW:
		walk->safe |= bit(p1);
		return true;
	case UNLESS:
		walk->safe |= bit(p1);
		walk->refusal = at + 1;
		return may_jump(walk, at, p2);
	case OPEN:
		walk->cursor = p1;
		walk->root = p2;
		return p3 == 0;
	case CALL:
		return is_short(p4);
	case BEGIN:
		walk->begins = true;
		walk->schema = p3;
		return p1 == 0;
	case CONTROL:
		walk->controls = true;
		return true;
	case READ:
		return walk->loop >= 0 && at >= walk->loop && at >= walk->tail && p1 == walk->cursor;
	case MAY_FAIL:
		return p2 == 0 || may_jump(walk, at, p2);
	case JUMP:
		walk->over = at >= walk->tail && p2 == 1 && strcmp(opcode, "Goto") == 0;
		return walk->over || may_jump(walk, at, p2);
	case REWIND:
		walk->loop = at + 1;
		return may_jump(walk, at, p2) && at >= walk->tail && p1 == walk->cursor &&
		       walk->root == sequence_root(walk->conn);
	case NEXT:
		return walk->loop >= 0 && at > walk->loop && p1 == walk->cursor && p2 == walk->loop;
	}
	return false;
}

static const char *text_of(sqlite3_stmt *listing, int column)
{
	const unsigned char *text = sqlite3_column_text(listing, column);
	return text != NULL ? (const char *)text : "";
}

static bool walk_through(struct walk *walk, sqlite3_stmt *listing)
{
	int rv = sqlite3_step(listing);
	if (rv != SQLITE_ROW || strcmp(text_of(listing, 1), "Init") != 0) {
		return false;
	}
	walk->tail = sqlite3_column_int(listing, 3);
	while ((rv = sqlite3_step(listing)) == SQLITE_ROW) {
		if (!step(walk, sqlite3_column_int(listing, 0), text_of(listing, 1), sqlite3_column_int(listing, 2),
			  sqlite3_column_int(listing, 3), sqlite3_column_int(listing, 4), text_of(listing, 5),
			  sqlite3_column_int(listing, 6))) {
			return false;
		}
	}
	return rv == SQLITE_DONE && walk->over && walk->begins != walk->controls;
}

static void prove(struct glue_proof *proof, sqlite3 *conn, const char *sql)
{
	static const char explain[] = "EXPLAIN ";
	char text[sizeof explain + LONGEST];
	struct walk walk = { .conn = conn, .cursor = -1, .loop = -1, .refusal = -1 };
	sqlite3_stmt *listing = NULL;
	strcpy(text, explain);
	strcat(text, sql);
	proof->tried = true;
	proof->bounded = sqlite3_prepare_v2(conn, text, -1, &listing, NULL) == SQLITE_OK && walk_through(&walk, listing);
	proof->controls = walk.controls;
	proof->schema = walk.schema;
	sqlite3_finalize(listing);
}

/* As the transaction sees it. */
static int64_t schema_version(struct glue_bounds *bounds, sqlite3 *conn)
{
	if (bounds->version == NULL) {
		sqlite3_prepare_v3(conn, "PRAGMA main.schema_version", -1, SQLITE_PREPARE_PERSISTENT, &bounds->version, NULL);
	}
	int64_t version = sqlite3_step(bounds->version) == SQLITE_ROW ? sqlite3_column_int64(bounds->version, 0) : -1;
	sqlite3_reset(bounds->version);
	return version;
}

static bool begins_with(const char *sql, const char *const *words)
{
	sql += strspn(sql, " \t\r\n");
	for (; *words != NULL; words++) {
		if (strncasecmp(sql, *words, strlen(*words)) == 0) {
			return true;
		}
	}
	return false;
}

struct hash {
	uint64_t value;
};

static void put(struct hash *hash, char c)
{
	hash->value = (hash->value ^ (unsigned char)c) * 1099511628211u;
}

static bool is_word(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c & 0x80) != 0;
}

/* Behind a string that begins here; where it does not end, at the end of the text. */
static const char *behind_string(const char *sql)
{
	do {
		sql = strchr(sql + 1, '\'');
	} while (sql != NULL && sql[1] == '\'' && ++sql != NULL);
	return sql != NULL ? sql + 1 : "";
}

/* Numbers and strings in the list of values are as good as others there. Returns at what may be anything else. */
static const char *put_values(struct hash *hash, const char *sql)
{
	while (*sql != '\0') {
		const char *from = sql;
		if (strchr(" \t\r\n(),", *sql) != NULL) {
			put(hash, *sql++);
		} else if (*sql == '-' && sql[1] != '-') {
			put(hash, *sql++);
		} else if (*sql >= '0' && *sql <= '9') {
			while (is_word(*sql) || *sql == '.') {
				sql++;
			}
			put(hash, '0');
		} else if (*sql == '\'') {
			sql = behind_string(sql);
			put(hash, '\'');
		} else if ((*sql == 'x' || *sql == 'X') && sql[1] == '\'') {
			sql = behind_string(sql + 1);
			put(hash, 'x');
		} else if (strncasecmp(sql, "NULL", 4) == 0 && !is_word(sql[4])) {
			for (; sql < from + 4; sql++) {
				put(hash, *sql);
			}
		} else {
			break;
		}
	}
	return sql;
}

/* Texts with the same one differ in nothing that counts here: only in the values of an INSERT. */
static uint64_t shape_of(const char *sql)
{
	static const char *const inserts[] = { "INSERT", "REPLACE", NULL };
	struct hash hash = { 14695981039346656037u };
	bool looks_for_values = begins_with(sql, inserts);
	for (char before = 0; *sql != '\0'; before = *sql++) {
		/* A name in quotes, or a comment, may hold the word. */
		if (looks_for_values && (*sql == '"' || *sql == '`')) {
			for (char quote = *sql; sql[1] != '\0' && sql[1] != quote; sql++) {
				put(&hash, *sql);
			}
			put(&hash, *sql++);
			if (*sql == '\0') {
				break;
			}
		}
		looks_for_values = looks_for_values && strchr("'[-/", *sql) == NULL;
		if (looks_for_values && !is_word(before) && strncasecmp(sql, "VALUES", 6) == 0 && !is_word(sql[6])) {
			sql = put_values(&hash, sql + 6);
			looks_for_values = false;
			if (*sql == '\0') {
				break;
			}
		}
		put(&hash, *sql);
	}
	return hash.value;
}

/* What neither works on rows nor begins or ends transactions. */
static bool may_change_programs(const char *sql)
{
	static const char *const others[] = { "SELECT", "INSERT", "UPDATE", "DELETE",	"REPLACE",   "WITH",	"VALUES",
					      "BEGIN",	"COMMIT", "END",    "ROLLBACK", "SAVEPOINT", "RELEASE", NULL };
	return !begins_with(sql, others);
}

void glue_bounds_compiled(struct glue_bounds *bounds, const char *sql)
{
	if (may_change_programs(sql)) {
		memset(bounds->proof, 0, sizeof bounds->proof);
		bounds->pending = true;
		bounds->unsettled = true;
	}
}

void glue_bounds_enter(struct glue_bounds *bounds, sqlite3 *conn, const char *sql)
{
	if (sqlite3_get_autocommit(conn)) {
		bounds->unsettled = bounds->pending;
		bounds->heavy = false;
		bounds->spent_ns = 0;
	}
	if (may_change_programs(sql)) {
		memset(bounds->proof, 0, sizeof bounds->proof);
		bounds->pending = false;
		bounds->unsettled = true;
	}
}

void glue_bounds_long(struct glue_bounds *bounds, sqlite3 *conn, sqlite3_stmt *stmt)
{
	bounds->heavy |= !sqlite3_get_autocommit(conn) && !glue_stmt_readonly(stmt);
}

/* What comes once is not worth a proof. */
static struct glue_proof *proof_of(struct glue_bounds *bounds, sqlite3 *conn, const char *sql)
{
	uint64_t shape = shape_of(sql);
	struct glue_proof *proof = &bounds->proof[shape % GLUE_PROOFS];
	if (proof->shape != shape) {
		*proof = (struct glue_proof){ .shape = shape };
		return NULL;
	}
	if (!proof->tried) {
		prove(proof, conn, sql);
	}
	return proof;
}

bool glue_is_bounded(struct glue_bounds *bounds, sqlite3 *conn, const char *sql)
{
	if (bounds->unsettled || strlen(sql) > LONGEST) {
		return false;
	}
	struct glue_proof *proof = proof_of(bounds, conn, sql);
	if (proof == NULL || !proof->bounded) {
		return false;
	}
	if (proof->controls) {
		return !bounds->heavy && bounds->spent_ns <= COMMITTED_NS;
	}
	if (proof->schema == schema_version(bounds, conn)) {
		return true;
	}
	*proof = (struct glue_proof){ .shape = proof->shape };
	return false;
}

void glue_bounds_clear(struct glue_bounds *bounds)
{
	sqlite3_finalize(bounds->version);
	bounds->version = NULL;
}
