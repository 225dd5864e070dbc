/* Sessions, statements, rows and transactions: the API that a language binding is made of, and what it refuses. */
#include "check.h"

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *node_address;

static dqlitepy_handle new_node(void)
{
	node_address = free_address();
	return running_node(path_in_test_dir("node"), node_address);
}

static dqlitepy_handle new_session(dqlitepy_handle node)
{
	dqlitepy_handle session = 0;
	CHECK_OK(dqlitepy_session_open(node, "test.db", &session));
	CHECK(session != 0);
	return session;
}

static void exec(dqlitepy_handle session, const char *sql)
{
	check_rc(__FILE__, __LINE__, sql, dqlitepy_session_exec(session, sql, -1, NULL, NULL), DQLITEPY_OK);
}

static dqlitepy_handle prepare(dqlitepy_handle session, const char *sql)
{
	dqlitepy_handle statement = 0;
	check_rc(__FILE__, __LINE__, sql, dqlitepy_session_prepare(session, sql, -1, &statement, NULL), DQLITEPY_OK);
	CHECK(statement != 0);
	return statement;
}

static dqlitepy_handle query(dqlitepy_handle session, const char *sql)
{
	dqlitepy_handle rows = 0;
	check_rc(__FILE__, __LINE__, sql, dqlitepy_session_query(session, sql, -1, &rows), DQLITEPY_OK);
	CHECK(rows != 0);
	return rows;
}

/* The only value of the only row. */
static long long number(dqlitepy_handle session, const char *sql)
{
	dqlitepy_handle rows = query(session, sql);
	int64_t value = -1;
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
	CHECK_OK(dqlitepy_rows_column_int64(rows, 0, &value));
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_DONE);
	CHECK_OK(dqlitepy_rows_close(rows));
	return value;
}

#define MANY "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) SELECT i, 'row ' || i FROM n"
#define ENDLESS "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

static void values_come_back(void)
{
	static const int64_t integers[] = { 0, 1, -1, INT64_MAX, INT64_MIN, 1LL << 53, (1LL << 53) + 1 };
	static const double reals[] = { 0.0, -0.0, 0.1, -1.5, DBL_MAX, DBL_MIN, 5e-324, HUGE_VAL, -HUGE_VAL };
	static const char *const texts[] = { "", "a", "12345678", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", "'\"\\\n\x01" };
	static const struct { const void *data; uint64_t size; } blobs[] = {
		{ NULL, 0 }, { "", 0 }, { "\0", 1 }, { "a\0b", 3 }, { "\xff\xfe", 2 }, { "12345678", 8 },
	};
	dqlitepy_handle node = new_node(), session = new_session(node), rows = 0;
	exec(session, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
	dqlitepy_handle insert = prepare(session, "INSERT INTO t(v) VALUES (?)");
	dqlitepy_handle select = prepare(session, "SELECT v, typeof(v) FROM t WHERE id = last_insert_rowid()");
	int type = 0;
	for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
		int64_t got = 7, id = 0, affected = 0;
		CHECK_OK(dqlitepy_statement_bind_int64(insert, 1, integers[i]));
		CHECK_OK(dqlitepy_statement_exec(insert, &id, &affected));
		CHECK_INT(affected, 1);
		CHECK_INT(id, i + 1);
		CHECK_OK(dqlitepy_statement_query(select, &rows));
		CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
		CHECK_OK(dqlitepy_rows_column_type(rows, 0, &type));
		CHECK_INT(type, DQLITEPY_INTEGER);
		CHECK_OK(dqlitepy_rows_column_int64(rows, 0, &got));
		CHECK(got == integers[i]);
		CHECK_OK(dqlitepy_rows_close(rows));
	}
	for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
		double got = 7;
		CHECK_OK(dqlitepy_statement_bind_double(insert, 1, reals[i]));
		CHECK_OK(dqlitepy_statement_exec(insert, NULL, NULL));
		CHECK_OK(dqlitepy_statement_query(select, &rows));
		CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
		CHECK_OK(dqlitepy_rows_column_double(rows, 0, &got));
		/* SQLite stores -0.0 as 0.0. */
		CHECK(got == reals[i] && (got != 0 || reals[i] == 0));
		CHECK_OK(dqlitepy_rows_close(rows));
	}
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
		const char *text = NULL;
		uint64_t size = 99;
		CHECK_OK(dqlitepy_statement_bind_text(insert, 1, texts[i], i % 2 ? -1 : (int64_t)strlen(texts[i])));
		CHECK_OK(dqlitepy_statement_exec(insert, NULL, NULL));
		CHECK_OK(dqlitepy_statement_query(select, &rows));
		CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
		CHECK_OK(dqlitepy_rows_column_text(rows, 0, &text, &size));
		CHECK(size == strlen(texts[i]) && memcmp(text, texts[i], size) == 0);
		CHECK_OK(dqlitepy_rows_column_text(rows, 1, &text, &size));
		CHECK(size == 4 && memcmp(text, "text", 4) == 0);
		CHECK_OK(dqlitepy_rows_close(rows));
	}
	for (size_t i = 0; i < sizeof blobs / sizeof *blobs; i++) {
		const void *data = NULL;
		uint64_t size = 99;
		CHECK_OK(dqlitepy_statement_bind_blob(insert, 1, blobs[i].data, blobs[i].size));
		CHECK_OK(dqlitepy_statement_exec(insert, NULL, NULL));
		CHECK_OK(dqlitepy_statement_query(select, &rows));
		CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
		CHECK_OK(dqlitepy_rows_column_type(rows, 0, &type));
		CHECK_INT(type, DQLITEPY_BLOB);
		CHECK_OK(dqlitepy_rows_column_blob(rows, 0, &data, &size));
		CHECK(size == blobs[i].size && (size == 0 || memcmp(data, blobs[i].data, size) == 0));
		CHECK_OK(dqlitepy_rows_close(rows));
	}
	CHECK_OK(dqlitepy_statement_bind_double(insert, 1, (double)NAN));
	CHECK_OK(dqlitepy_statement_exec(insert, NULL, NULL));
	CHECK_INT(number(session, "SELECT v IS NULL FROM t WHERE id = last_insert_rowid()"), 1);
	CHECK_OK(dqlitepy_statement_finalize(insert));
	CHECK_OK(dqlitepy_statement_finalize(select));
	/* A text with a NUL is read whole. */
	rows = query(session, "SELECT 'a' || char(0) || 'b'");
	const char *text = NULL;
	uint64_t size = 0;
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
	CHECK_OK(dqlitepy_rows_column_text(rows, 0, &text, &size));
	CHECK(size == 3 && memcmp(text, "a\0b", 3) == 0);
	CHECK_OK(dqlitepy_rows_close(rows));
	CHECK_OK(dqlitepy_session_close(session));
	dqlitepy_node_destroy(node);
}

static void declared_types(void)
{
	dqlitepy_handle node = new_node(), session = new_session(node), rows = 0;
	dqlitepy_value values[4];
	exec(session, "CREATE TABLE t(b BOOLEAN, d DATETIME, n DATE, x)");
	dqlitepy_handle insert = prepare(session, "INSERT INTO t VALUES (:b, :d, :n, :x)");
	int index = 0, count = 0;
	char *name = NULL;
	CHECK_OK(dqlitepy_statement_parameter_count(insert, &count));
	CHECK_INT(count, 4);
	CHECK_OK(dqlitepy_statement_parameter_index(insert, ":d", &index));
	CHECK_INT(index, 2);
	CHECK_OK(dqlitepy_statement_parameter_name(insert, 3, &name));
	CHECK_TEXT(name, ":n");
	dqlitepy_free(name);
	CHECK_RC(dqlitepy_statement_parameter_index(insert, "d", &index), DQLITEPY_NOTFOUND);
	CHECK_INT(index, 0);
	CHECK_OK(dqlitepy_statement_bind_bool(insert, 1, 17));
	CHECK_OK(dqlitepy_statement_bind_time(insert, 2, 1704164645, 500000000));
	CHECK_OK(dqlitepy_statement_bind_int64(insert, 3, 86400));
	CHECK_OK(dqlitepy_statement_bind_time(insert, 4, -1, 0));
	CHECK_OK(dqlitepy_statement_exec(insert, NULL, NULL));
	rows = query(session, "SELECT * FROM t");
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
	CHECK_RC(dqlitepy_rows_row(rows, values, 3), DQLITEPY_INVALID);
	CHECK_OK(dqlitepy_rows_row(rows, values, 4));
	CHECK_INT(values[0].type, DQLITEPY_BOOLEAN);
	CHECK_INT(values[0].integer, 1);
	CHECK_INT(values[1].type, DQLITEPY_ISO8601);
	CHECK(values[1].size == 27 && memcmp(values[1].data, "2024-01-02 03:04:05.5+00:00", 27) == 0);
	CHECK_INT(values[2].type, DQLITEPY_UNIXTIME);
	CHECK_INT(values[2].integer, 86400);
	CHECK_INT(values[3].type, DQLITEPY_TEXT);
	CHECK(values[3].size == 25 && memcmp(values[3].data, "1969-12-31 23:59:59+00:00", 25) == 0);
	const char *column = NULL;
	CHECK_OK(dqlitepy_rows_column_name(rows, 1, &column));
	CHECK_TEXT(column, "d");
	CHECK_OK(dqlitepy_rows_close(rows));
	/* All at once, and cleared. */
	dqlitepy_value bound[4] = {
		{ .type = DQLITEPY_NULL },
		{ .type = DQLITEPY_ISO8601, .data = "2024-01-02", .size = 10 },
		{ .type = DQLITEPY_FLOAT, .real = 1.5 },
		{ .type = DQLITEPY_BLOB, .data = "\0", .size = 1 },
	};
	CHECK_OK(dqlitepy_statement_bind_values(insert, bound, 4));
	CHECK_OK(dqlitepy_statement_exec(insert, NULL, NULL));
	CHECK_OK(dqlitepy_statement_clear_bindings(insert));
	CHECK_OK(dqlitepy_statement_reset(insert));
	CHECK_OK(dqlitepy_statement_exec(insert, NULL, NULL));
	CHECK_INT(number(session, "SELECT count(*) FROM t WHERE coalesce(b, d, n, x) IS NULL"), 1);
	CHECK_INT(number(session, "SELECT count(*) FROM t WHERE b IS NULL AND d = '2024-01-02' AND n = 1.5 AND x = x'00'"), 1);
	CHECK_OK(dqlitepy_statement_finalize(insert));
	CHECK_OK(dqlitepy_session_close(session));
	dqlitepy_node_destroy(node);
}

static void scripts(void)
{
	static const char script[] = "CREATE TABLE t(a); -- one\nINSERT INTO t VALUES (1), (2);\n/* c */ SELECT sum(a) FROM t;  ";
	dqlitepy_handle node = new_node(), session = new_session(node), statement = 0;
	uint64_t at = 0, tail = 0;
	int statements = 0;
	for (; at < sizeof script - 1; at += tail) {
		CHECK_OK(dqlitepy_session_prepare(session, script + at, (int64_t)(sizeof script - 1 - at), &statement, &tail));
		CHECK(tail > 0);
		if (statement) {
			statements++;
			CHECK_OK(dqlitepy_statement_exec(statement, NULL, NULL));
			CHECK_OK(dqlitepy_statement_finalize(statement));
		}
	}
	CHECK_INT(statements, 3);
	CHECK_OK(dqlitepy_session_prepare(session, " -- nothing", -1, &statement, &tail));
	CHECK(statement == 0 && tail == 11);
	CHECK_RC(dqlitepy_session_prepare(session, "SELEC", -1, &statement, &tail), DQLITEPY_SQL + 1);
	CHECK_ERROR_HAS("syntax error");
	CHECK(statement == 0 && tail == 0);
	CHECK_RC(dqlitepy_session_prepare(session, "SELECT 1\0", 9, &statement, &tail), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_session_prepare(session, "SELECT '\xff'", 11, &statement, &tail), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_session_prepare(session, NULL, -1, &statement, &tail), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_session_prepare(session, NULL, 5, &statement, &tail), DQLITEPY_INVALID);
	CHECK_OK(dqlitepy_session_prepare(session, NULL, 0, &statement, &tail));
	int64_t id = 0, affected = 0;
	CHECK_OK(dqlitepy_session_exec(session, "INSERT INTO t VALUES (5) RETURNING a; SELECT 1", -1, &id, &affected));
	CHECK(id == 3 && affected == 1);
	CHECK_OK(dqlitepy_session_close(session));
	dqlitepy_node_destroy(node);
}

static void streaming(void)
{
	dqlitepy_handle node = new_node(), session = new_session(node), other = new_session(node), rows = query(session, MANY);
	int count = 0;
	CHECK_OK(dqlitepy_rows_column_count(rows, &count));
	CHECK_INT(count, 2);
	/* The session is busy, another one is not. */
	CHECK_RC(dqlitepy_session_exec(session, "SELECT 1", -1, NULL, NULL), DQLITEPY_MISUSE);
	CHECK_ERROR_HAS("rows");
	CHECK_INT(number(other, "SELECT 5"), 5);
	/* One by one, a row at a time, then many. */
	dqlitepy_value values[2 * 300];
	int64_t next = 1;
	for (; next <= 1000; next++) {
		int64_t got = 0;
		CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
		CHECK_OK(dqlitepy_rows_column_int64(rows, 0, &got));
		CHECK_INT(got, next);
		CHECK_OK(dqlitepy_rows_row(rows, values, 2));
		CHECK_INT(values[0].integer, next);
	}
	int rc;
	uint64_t n = 0;
	while ((rc = dqlitepy_rows_fetch(rows, values, 300, &n)) == DQLITEPY_ROW) {
		CHECK(n > 0 && n <= 300);
		for (uint64_t i = 0; i < n; i++, next++) {
			char expected[40];
			snprintf(expected, sizeof expected, "row %lld", (long long)next);
			CHECK_INT(values[2 * i].integer, next);
			CHECK_INT(values[2 * i + 1].type, DQLITEPY_TEXT);
			CHECK(values[2 * i + 1].size == strlen(expected));
			CHECK(memcmp(values[2 * i + 1].data, expected, strlen(expected)) == 0);
		}
	}
	CHECK_INT(rc, DQLITEPY_DONE);
	CHECK_INT(next, 50001);
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_DONE);
	CHECK_OK(dqlitepy_rows_close(rows));
	CHECK_RC(dqlitepy_rows_step(rows), DQLITEPY_NOTFOUND);
	CHECK_INT(number(session, "SELECT 6"), 6);
	/* Closed in the middle; a small result needs no close before the next call. */
	rows = query(session, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n");
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
	CHECK_OK(dqlitepy_rows_close(rows));
	rows = query(session, "VALUES (1), (2)");
	CHECK_INT(number(session, "SELECT 7"), 7);
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
	CHECK_OK(dqlitepy_rows_close(rows));
	/* No rows, no columns. */
	rows = query(session, "CREATE TABLE t(a)");
	CHECK_OK(dqlitepy_rows_column_count(rows, &count));
	CHECK_INT(count, 0);
	CHECK_INT(dqlitepy_rows_fetch(rows, NULL, 10, &n), DQLITEPY_DONE);
	CHECK_OK(dqlitepy_rows_close(rows));
	rows = query(session, "SELECT a FROM t");
	CHECK_OK(dqlitepy_rows_column_count(rows, &count));
	CHECK_INT(count, 1);
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_DONE);
	CHECK_OK(dqlitepy_rows_close(rows));
	CHECK_OK(dqlitepy_session_close(session));
	CHECK_OK(dqlitepy_session_close(other));
	dqlitepy_node_destroy(node);
}

/* Kilobytes of memory that this process holds. */
static long resident(void)
{
	long pages = 0, all = 0;
	FILE *f = fopen("/proc/self/statm", "r");
	CHECK(f && fscanf(f, "%ld %ld", &all, &pages) == 2);
	fclose(f);
	return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Half a million rows, or as many as DQLITEPY_STREAM_ROWS says, in no more memory than the first of them. */
static void flat_memory(void)
{
	if (getenv("CHECK_UNDER"))
		check_skip("%s keeps memory of its own", getenv("CHECK_UNDER"));
	const char *wanted = getenv("DQLITEPY_STREAM_ROWS");
	long long total = wanted ? atoll(wanted) : 500000, sum = 0;
	char sql[300];
	snprintf(sql, sizeof sql,
		 "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %lld) "
		 "SELECT i, 'a text of some length for row ' || i, i / 7.0, x'00112233445566778899' FROM n", total);
	dqlitepy_handle node = new_node(), session = new_session(node), rows = query(session, sql);
	dqlitepy_value *values = calloc(4 * 256, sizeof *values);
	uint64_t n = 0;
	long long seen = 0;
	long first = 0, most = 0;
	double start = now();
	while (dqlitepy_rows_fetch(rows, values, 256, &n) == DQLITEPY_ROW) {
		for (uint64_t i = 0; i < n; i++)
			sum += values[4 * i].integer;
		seen += (long long)n;
		if (first == 0 && seen > 20000)
			first = resident();
		if (seen % 1024 < 256 && resident() > most)
			most = resident();
	}
	double took = now() - start;
	CHECK(seen == total && sum == total * (total + 1) / 2);
#ifdef __SANITIZE_ADDRESS__
	most = 0; /* what is freed stays resident for a while, so that its use would be noticed */
#endif
	if (most > first + 4096)
		check_fail(__FILE__, __LINE__, "%ld KiB after 20000 rows, %ld KiB at most", first, most);
	free(values);
	CHECK_OK(dqlitepy_rows_close(rows));
	CHECK_OK(dqlitepy_session_close(session));
	dqlitepy_node_destroy(node);
	const char *report = getenv("DQLITEPY_STREAM_REPORT");
	FILE *f = report ? fopen(report, "w") : NULL;
	if (f) {
		fprintf(f, "%lld rows in %.2f s, %ld KiB after 20000 rows, %ld KiB at most\n", total, took, first, most);
		fclose(f);
	}
}

static void transactions(void)
{
	dqlitepy_handle node = new_node(), one = new_session(node), other = new_session(node);
	int inside = 7;
	exec(one, "CREATE TABLE t(a)");
	CHECK_OK(dqlitepy_session_begin(one, DQLITEPY_IMMEDIATE));
	CHECK_OK(dqlitepy_session_in_transaction(one, &inside));
	CHECK_INT(inside, 1);
	CHECK_RC(dqlitepy_session_begin(one, DQLITEPY_DEFERRED), DQLITEPY_SQL + 1);
	CHECK_RC(dqlitepy_session_begin(one, 9), DQLITEPY_INVALID);
	exec(one, "INSERT INTO t VALUES (1)");
	CHECK_OK(dqlitepy_session_savepoint(one, "a \"b\" 'c'; --"));
	exec(one, "INSERT INTO t VALUES (2)");
	CHECK_OK(dqlitepy_session_rollback_to(one, "a \"b\" 'c'; --"));
	CHECK_OK(dqlitepy_session_release(one, "a \"b\" 'c'; --"));
	CHECK_RC(dqlitepy_session_release(one, "none"), DQLITEPY_SQL + 1);
	CHECK_INT(number(other, "SELECT count(*) FROM t"), 0);
	CHECK_OK(dqlitepy_session_commit(one));
	CHECK_RC(dqlitepy_session_commit(one), DQLITEPY_SQL + 1);
	CHECK_RC(dqlitepy_session_rollback(one), DQLITEPY_SQL + 1);
	CHECK_INT(number(other, "SELECT count(*) FROM t"), 1);
	/* A transaction whose snapshot is old has to be begun anew. */
	CHECK_OK(dqlitepy_session_begin(one, DQLITEPY_DEFERRED));
	CHECK_INT(number(one, "SELECT count(*) FROM t"), 1);
	exec(other, "INSERT INTO t VALUES (3)");
	CHECK_RC(dqlitepy_session_exec(one, "INSERT INTO t VALUES (4)", -1, NULL, NULL), DQLITEPY_SQL + 5);
	CHECK_INT(dqlitepy_last_sqlite_code(), 517);
	CHECK_INT(dqlitepy_last_error_code(), DQLITEPY_SQL + 5);
	CHECK_INT(dqlitepy_session_sqlite_code(one), 517);
	CHECK_INT(dqlitepy_session_error_code(one), DQLITEPY_SQL + 5);
	char *message = dqlitepy_session_last_error(one);
	CHECK_HAS(message, "locked");
	dqlitepy_free(message);
	CHECK_INT(dqlitepy_session_error_code(other), DQLITEPY_OK);
	CHECK(dqlitepy_session_last_error(other) == NULL);
	CHECK_OK(dqlitepy_session_rollback(one));
	/* The lock is given up at close. */
	CHECK_OK(dqlitepy_session_begin(one, DQLITEPY_EXCLUSIVE));
	exec(one, "INSERT INTO t VALUES (5)");
	CHECK_OK(dqlitepy_session_close(one));
	exec(other, "INSERT INTO t VALUES (6)");
	CHECK_INT(number(other, "SELECT CAST(group_concat(a, '') AS INTEGER) FROM t"), 136);
	CHECK_OK(dqlitepy_session_close(other));
	dqlitepy_node_destroy(node);
}

static void batches(void)
{
	dqlitepy_handle node = new_node(), session = new_session(node);
	exec(session, "CREATE TABLE t(id INTEGER PRIMARY KEY, a)");
	dqlitepy_handle insert = prepare(session, "INSERT INTO t VALUES (?, ?)");
	int64_t rows = 7;
	CHECK_OK(dqlitepy_statement_exec_batch(insert, &rows));
	CHECK_INT(rows, 0);
	for (int i = 1; i <= 10000; i++) {
		CHECK_OK(dqlitepy_statement_bind_int64(insert, 1, i));
		CHECK_OK(dqlitepy_statement_bind_text(insert, 2, "some text", -1));
		CHECK_OK(dqlitepy_statement_add_batch(insert));
	}
	CHECK_OK(dqlitepy_statement_exec_batch(insert, &rows));
	CHECK_INT(rows, 10000);
	/* All or none. */
	for (int i = 10003; i >= 10000; i--) {
		CHECK_OK(dqlitepy_statement_bind_int64(insert, 1, i));
		CHECK_OK(dqlitepy_statement_add_batch(insert));
	}
	CHECK_RC(dqlitepy_statement_exec_batch(insert, &rows), DQLITEPY_SQL + 19);
	CHECK_INT(rows, 0);
	CHECK_INT(dqlitepy_last_sqlite_code(), 1555);
	CHECK_INT(number(session, "SELECT count(*) FROM t"), 10000);
	CHECK_OK(dqlitepy_statement_exec_batch(insert, &rows));
	CHECK_INT(rows, 0);
	CHECK_OK(dqlitepy_statement_finalize(insert));
	CHECK_OK(dqlitepy_session_close(session));
	dqlitepy_node_destroy(node);
}

/* A result that is larger than the caller wants. */
static void too_large(void)
{
	dqlitepy_handle node = new_node(), session = new_session(node), rows = 7;
	int rc;
	CHECK_RC(dqlitepy_session_set_max_result(node, 1), DQLITEPY_INVALID);
	CHECK_OK(dqlitepy_session_set_max_result(session, 200000));
	CHECK_RC(dqlitepy_session_query(session, "SELECT zeroblob(300000)", -1, &rows), DQLITEPY_SQL + 18);
	CHECK_ERROR_HAS("200000");
	CHECK(rows == 0);
	rows = query(session, MANY);
	while ((rc = dqlitepy_rows_step(rows)) == DQLITEPY_ROW)
		;
	CHECK_RC(rc, DQLITEPY_SQL + 18);
	CHECK_RC(dqlitepy_rows_step(rows), DQLITEPY_SQL + 18);
	CHECK_INT(number(session, "SELECT 5"), 5);
	CHECK_OK(dqlitepy_rows_close(rows));
	CHECK_OK(dqlitepy_session_close(session));
	dqlitepy_node_destroy(node);
}

/* What belonged to a connection that is gone is not missed in silence. */
static void settings_are_lost(void)
{
	dqlitepy_handle node = new_node(), session = 0;
	CHECK_OK(dqlitepy_session_open_addresses(node_address, "test.db", &session));
	exec(session, "CREATE TABLE t(a); PRAGMA recursive_triggers = 1; CREATE TEMP TABLE x(a)");
	CHECK_OK(dqlitepy_node_stop(node));
	CHECK_OK(dqlitepy_node_start(node));
	/* The call that meets the loss may be the one that says so, or one that could not tell whether it was carried out. */
	int rc = dqlitepy_session_exec(session, "SELECT 1", -1, NULL, NULL);
	if (rc != DQLITEPY_SETTINGS_LOST) {
		CHECK(rc != DQLITEPY_OK);
		CHECK_RC(dqlitepy_session_exec(session, "SELECT 1", -1, NULL, NULL), DQLITEPY_SETTINGS_LOST);
	}
	CHECK_ERROR_HAS("temporary tables");
	CHECK_INT(number(session, "PRAGMA recursive_triggers"), 0);
	CHECK_OK(dqlitepy_session_close(session));
	dqlitepy_node_destroy(node);
}

static void wrong_handles_and_arguments(void)
{
	dqlitepy_handle node = new_node(), session = new_session(node), out = 7, rows = 0;
	int number_out = 7;
	uint64_t size = 7;
	int64_t value = 7;
	const void *data = &size;
	CHECK_RC(dqlitepy_session_open(node, "", &out), DQLITEPY_INVALID);
	CHECK(out == 0);
	CHECK_RC(dqlitepy_session_open(node, "a/b", &out), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_session_open(node, NULL, &out), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_session_open(node, "a", NULL), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_session_open(session, "a", &out), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_session_open(99, "a", &out), DQLITEPY_NOTFOUND);
	CHECK_RC(dqlitepy_session_open_addresses("", "a", &out), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_session_open_addresses(NULL, "a", &out), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_session_exec(node, "SELECT 1", -1, &value, NULL), DQLITEPY_INVALID);
	CHECK_INT(value, 0);
	CHECK_RC(dqlitepy_session_exec(0, "SELECT 1", -1, NULL, NULL), DQLITEPY_NOTFOUND);
	CHECK_RC(dqlitepy_session_query(session, "SELECT 1; SELECT 2", -1, &out), DQLITEPY_SQL + 1);
	CHECK_RC(dqlitepy_session_close(node), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_rows_close(session), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_statement_finalize(session), DQLITEPY_INVALID);

	dqlitepy_handle statement = prepare(session, "SELECT ?, 'x', 1.5");
	CHECK_RC(dqlitepy_statement_bind_int64(statement, 0, 1), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_statement_bind_int64(statement, 2, 1), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_statement_bind_int64(statement, -5, 1), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_statement_bind_text(statement, 1, "a\0b", 3), DQLITEPY_INVALID);
	CHECK_ERROR_HAS("CAST(? AS TEXT)");
	CHECK_RC(dqlitepy_statement_bind_text(statement, 1, NULL, 3), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_statement_bind_text(statement, 1, NULL, -1), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_statement_bind_blob(statement, 1, "x", 1000000001), DQLITEPY_SQL + 18);
	CHECK_RC(dqlitepy_statement_bind_blob(statement, 1, "x", UINT64_MAX), DQLITEPY_SQL + 18);
	CHECK_RC(dqlitepy_statement_bind_text(statement, 1, "x", INT64_MAX), DQLITEPY_SQL + 18);
	CHECK_RC(dqlitepy_statement_bind_time(statement, 1, INT64_MIN, 0), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_statement_bind_time(statement, 1, 0, 1000000000), DQLITEPY_INVALID);
	dqlitepy_value bound[2] = { { .type = 77 }, { .type = DQLITEPY_NULL } };
	CHECK_RC(dqlitepy_statement_bind_values(statement, bound, 1), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_statement_bind_values(statement, bound, 2), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_statement_bind_values(statement, NULL, 1), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_statement_bind_values(statement, bound, UINT64_MAX), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_statement_add_batch(99), DQLITEPY_NOTFOUND);

	CHECK_OK(dqlitepy_statement_query(statement, &rows));
	CHECK_RC(dqlitepy_rows_column_int64(rows, 0, &value), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_rows_column_type(rows, 0, &number_out), DQLITEPY_MISUSE);
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
	CHECK_RC(dqlitepy_rows_column_int64(rows, 3, &value), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_rows_column_int64(rows, -1, &value), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_rows_column_int64(rows, 0, NULL), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_rows_column_int64(rows, 1, &value), DQLITEPY_INVALID);
	CHECK_ERROR_HAS("TEXT");
	CHECK_RC(dqlitepy_rows_column_double(rows, 1, &(double){ 0 }), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_rows_column_blob(rows, 2, &data, &size), DQLITEPY_INVALID);
	CHECK(data == NULL && size == 0);
	CHECK_OK(dqlitepy_rows_column_blob(rows, 0, &data, &size));
	CHECK(data == NULL && size == 0);
	CHECK_RC(dqlitepy_rows_fetch(rows, NULL, 1, &(uint64_t){ 0 }), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_rows_fetch(rows, bound, UINT64_MAX, &(uint64_t){ 0 }), DQLITEPY_INVALID);
	/* The rows outlive the statement and, since they are all here, the session. */
	CHECK_OK(dqlitepy_statement_finalize(statement));
	CHECK_RC(dqlitepy_statement_exec(statement, NULL, NULL), DQLITEPY_NOTFOUND);
	CHECK_RC(dqlitepy_statement_finalize(statement), DQLITEPY_NOTFOUND);
	statement = prepare(session, "SELECT 1");
	CHECK_OK(dqlitepy_session_close(session));
	CHECK_RC(dqlitepy_session_close(session), DQLITEPY_NOTFOUND);
	CHECK_RC(dqlitepy_session_exec(session, "SELECT 1", -1, NULL, NULL), DQLITEPY_NOTFOUND);
	CHECK_RC(dqlitepy_statement_exec(statement, NULL, NULL), DQLITEPY_MISUSE);
	CHECK_ERROR_HAS("closed");
	CHECK_RC(dqlitepy_statement_query(statement, &out), DQLITEPY_MISUSE);
	CHECK_OK(dqlitepy_statement_finalize(statement));
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_DONE);
	CHECK_OK(dqlitepy_rows_close(rows));
	dqlitepy_node_destroy(node);
	CHECK_HAS(dqlitepy_engine_version(), "SQLite");
}

struct call {
	dqlitepy_handle node, session;
	const char *sql;
	pthread_t thread;
	long long before; /* bytes that the node was sent */
	int rc;
	char message[300];
};

static void *run_call(void *argument)
{
	struct call *call = argument;
	dqlitepy_handle rows = 0;
	call->rc = dqlitepy_session_query(call->session, call->sql, -1, &rows);
	snprintf(call->message, sizeof call->message, "%s", last_error_text());
	if (rows)
		dqlitepy_rows_close(rows);
	return NULL;
}

static long long sent(dqlitepy_handle node)
{
	char *text = NULL;
	CHECK_OK(dqlitepy_node_metrics(node, DQLITEPY_METRICS_PROMETHEUS, &text));
	const char *found = strstr(text, "dqlitepy_node_sent_bytes_total{");
	CHECK(found != NULL);
	long long bytes = atoll(strchr(found, '}') + 1);
	dqlitepy_free(text);
	return bytes;
}

static int is_under_way(void *argument)
{
	const struct call *call = argument;
	return sent(call->node) >= call->before + (long long)strlen(call->sql);
}

/* In a thread; returns when the node has the statement. */
static void begin(struct call *call)
{
	call->before = sent(call->node);
	CHECK(pthread_create(&call->thread, NULL, run_call, call) == 0);
	WAIT_UNTIL(20, is_under_way, call);
}

static void interrupt_and_close(void)
{
	dqlitepy_handle node = new_node(), session = new_session(node);
	struct call call = { .node = node, .session = session, .sql = ENDLESS };
	CHECK_OK(dqlitepy_session_interrupt(session)); /* nothing is under way */
	CHECK_INT(number(session, "SELECT 1"), 1);
	begin(&call);
	double start = now();
	CHECK_OK(dqlitepy_session_interrupt(session));
	pthread_join(call.thread, NULL);
	CHECK_WITHIN(start, 2);
	CHECK_INT(call.rc, DQLITEPY_INTERRUPTED);
	CHECK_INT(number(session, "SELECT 1"), 1);
	/* The deadline. */
	CHECK_OK(dqlitepy_session_set_timeout(session, 300));
	start = now();
	dqlitepy_handle rows = 7;
	CHECK_RC(dqlitepy_session_query(session, ENDLESS, -1, &rows), DQLITEPY_TIMEOUT);
	CHECK(rows == 0);
	CHECK_WITHIN(start, 3);
	CHECK_OK(dqlitepy_session_set_timeout(session, 0));
	CHECK_INT(number(session, "SELECT 1"), 1);
	begin(&call);
	start = now();
	CHECK_OK(dqlitepy_session_close(session));
	pthread_join(call.thread, NULL);
	CHECK_WITHIN(start, 2);
	CHECK_INT(call.rc, DQLITEPY_SHUTDOWN);
	CHECK_HAS(call.message, "closed");
	dqlitepy_node_destroy(node);
}

static void the_node_ends(void)
{
	dqlitepy_handle node = new_node(), session = new_session(node), idle = new_session(node);
	struct call call = { .node = node, .session = session, .sql = ENDLESS };
	dqlitepy_handle rows = query(idle, MANY);
	begin(&call);
	dqlitepy_node_destroy(node);
	pthread_join(call.thread, NULL);
	CHECK_INT(call.rc, DQLITEPY_SHUTDOWN);
	CHECK_RC(dqlitepy_session_exec(session, "SELECT 1", -1, NULL, NULL), DQLITEPY_SHUTDOWN);
	int rc;
	while ((rc = dqlitepy_rows_step(rows)) == DQLITEPY_ROW)
		;
	CHECK_RC(rc, DQLITEPY_SHUTDOWN);
	CHECK_OK(dqlitepy_rows_close(rows));
	CHECK_OK(dqlitepy_session_close(session));
	CHECK_OK(dqlitepy_session_close(idle));
}

static void without_a_node(void)
{
	dqlitepy_handle node = new_node(), session = 0, nobody = 0;
	char *leader = NULL, list[200];
	snprintf(list, sizeof list, "%s, %s", free_address(), node_address);
	CHECK_OK(dqlitepy_session_open_addresses(list, "test.db", &session));
	CHECK_OK(dqlitepy_session_leader(session, &leader));
	CHECK_TEXT(leader, node_address);
	dqlitepy_free(leader);
	exec(session, "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
	CHECK_INT(number(session, "SELECT count(*) FROM t"), 1);
	CHECK_JSON(node, "SELECT a FROM t", "[{\"a\":1}]");
	CHECK_OK(dqlitepy_session_set_timeout(session, 1000));
	dqlitepy_node_destroy(node);
	CHECK(dqlitepy_session_exec(session, "INSERT INTO t VALUES (2)", -1, NULL, NULL) != DQLITEPY_OK);
	CHECK_RC(dqlitepy_session_exec(session, "INSERT INTO t VALUES (3)", -1, NULL, NULL), DQLITEPY_NOLEADER);
	CHECK_OK(dqlitepy_session_close(session));
	(void)nobody;
}

/* A session whose node went away and came back goes on, its statements too; a transaction does not. */
static void after_a_restart(void)
{
	dqlitepy_handle node = new_node(), session = 0;
	CHECK_OK(dqlitepy_session_open_addresses(node_address, "test.db", &session));
	exec(session, "CREATE TABLE t(a)");
	dqlitepy_handle insert = prepare(session, "INSERT INTO t VALUES (?)");
	CHECK_OK(dqlitepy_statement_bind_int64(insert, 1, 1));
	CHECK_OK(dqlitepy_statement_exec(insert, NULL, NULL));
	CHECK_OK(dqlitepy_node_stop(node));
	CHECK_OK(dqlitepy_node_start(node));
	/* It is only known to be gone when it is used, and then it is not known whether the insert was applied. */
	int rc = dqlitepy_statement_exec(insert, NULL, NULL);
	CHECK(rc == DQLITEPY_OK || rc == DQLITEPY_UNKNOWN);
	CHECK_OK(dqlitepy_statement_exec(insert, NULL, NULL));
	CHECK(number(session, "SELECT count(*) FROM t") >= 2);
	CHECK_OK(dqlitepy_session_begin(session, DQLITEPY_IMMEDIATE));
	CHECK_OK(dqlitepy_statement_exec(insert, NULL, NULL));
	CHECK_OK(dqlitepy_node_stop(node));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_RC(dqlitepy_statement_exec(insert, NULL, NULL), DQLITEPY_TRANSACTION_LOST);
	CHECK_RC(dqlitepy_session_exec(session, "SELECT 1", -1, NULL, NULL), DQLITEPY_TRANSACTION_LOST);
	CHECK_RC(dqlitepy_session_commit(session), DQLITEPY_TRANSACTION_LOST);
	CHECK_OK(dqlitepy_session_rollback(session));
	CHECK_OK(dqlitepy_statement_exec(insert, NULL, NULL));
	CHECK_OK(dqlitepy_statement_finalize(insert));
	CHECK_OK(dqlitepy_session_close(session));
	dqlitepy_node_destroy(node);
}

struct worker {
	dqlitepy_handle session, statement;
	int done, misused;
};

static void *work(void *argument)
{
	struct worker *worker = argument;
	for (int i = 0; i < 300; i++) {
		int rc = worker->statement ? dqlitepy_statement_exec(worker->statement, NULL, NULL)
					   : dqlitepy_session_exec(worker->session, "UPDATE t SET a = a + 1", -1, NULL, NULL);
		worker->done += rc == DQLITEPY_OK;
		worker->misused += rc == DQLITEPY_MISUSE;
	}
	return NULL;
}

/* On a session threads wait for each other, on a statement they are told that it is somebody else's. */
static void threads_share(void)
{
	dqlitepy_handle node = new_node(), session = new_session(node);
	exec(session, "CREATE TABLE t(a); INSERT INTO t VALUES (0)");
	dqlitepy_handle statement = prepare(session, "UPDATE t SET a = a + 1");
	struct worker workers[8] = { { 0 } };
	pthread_t threads[8];
	for (int i = 0; i < 8; i++) {
		workers[i].session = session;
		workers[i].statement = i < 4 ? 0 : statement;
		CHECK(pthread_create(&threads[i], NULL, work, &workers[i]) == 0);
	}
	long long done = 0;
	for (int i = 0; i < 8; i++) {
		pthread_join(threads[i], NULL);
		done += workers[i].done;
		CHECK_INT(workers[i].done + workers[i].misused, 300);
		CHECK(i >= 4 || workers[i].misused == 0);
	}
	CHECK_INT(number(session, "SELECT a FROM t"), done);
	CHECK_OK(dqlitepy_statement_finalize(statement));
	CHECK_OK(dqlitepy_session_close(session));
	dqlitepy_node_destroy(node);
}

static const struct test tests[] = {
	{ "values_come_back", values_come_back, 0 },
	{ "declared_types", declared_types, 0 },
	{ "scripts", scripts, 0 },
	{ "streaming", streaming, 0 },
	{ "flat_memory", flat_memory, 300 },
	{ "transactions", transactions, 0 },
	{ "batches", batches, 0 },
	{ "too_large", too_large, 0 },
	{ "settings_are_lost", settings_are_lost, 60 },
	{ "wrong_handles_and_arguments", wrong_handles_and_arguments, 0 },
	{ "interrupt_and_close", interrupt_and_close, 0 },
	{ "the_node_ends", the_node_ends, 0 },
	{ "without_a_node", without_a_node, 0 },
	{ "after_a_restart", after_a_restart, 60 },
	{ "threads_share", threads_share, 60 },
	{ NULL, NULL, 0 },
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, tests);
}
