/* What a statement does and what comes back: rows or none, numbers, transactions, JSON of every type, large results. */
#include "check.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static dqlitepy_handle new_node(void)
{
	return running_node(path_in_test_dir("node"), free_address());
}

/* exec takes statements that give rows; dqlitepy's DB-API sends everything but SELECT and PRAGMA there. */
static void exec_of_rows(void)
{
	dqlitepy_handle node = new_node();
	CHECK_EXEC_NUMBERS(node, "SELECT 1", 0, 0);
	CHECK_EXEC_NUMBERS(node, "VALUES (1), (2)", 0, 0);
	CHECK_EXEC_NUMBERS(node, "WITH a(x) AS (VALUES(1)) SELECT x FROM a", 0, 0);
	CHECK_EXEC_NUMBERS(node, "EXPLAIN SELECT 1", 0, 0);
	CHECK_EXEC_NUMBERS(node, "EXPLAIN QUERY PLAN SELECT 1", 0, 0);
	CHECK_EXEC_NUMBERS(node, "PRAGMA foreign_keys", 0, 0);
	CHECK_EXEC_NUMBERS(node, "PRAGMA cache_size = 500", 0, 0);
	CHECK_EXEC_NUMBERS(node, "  -- a comment\n /* and ; another */ SELECT 1 -- end", 0, 0);
	CHECK_EXEC_NUMBERS(node, "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 5000) SELECT n FROM s",
			   0, 0); /* several parts, read to the end */
	CHECK_EXEC_NUMBERS(node, "CREATE TABLE t(id INTEGER PRIMARY KEY, a)", 0, 0);
	CHECK_EXEC_NUMBERS(node, "INSERT INTO t(a) VALUES('x'), ('y') RETURNING id, a", 2, 2);
	CHECK_EXEC_NUMBERS(node, "WITH v(x) AS (VALUES('z')) INSERT INTO t(a) SELECT x FROM v", 3, 1);
	CHECK_EXEC_NUMBERS(node, "REPLACE INTO t(id, a) VALUES(3, 'zz')", 3, 1);
	CHECK_EXEC(node, "UPDATE t SET a = 'w' WHERE id < 3 RETURNING id");
	CHECK_EXEC(node, "DELETE FROM t WHERE id = 1 RETURNING *");
	CHECK_JSON(node, "SELECT id, a FROM t ORDER BY id", "[{\"id\":2,\"a\":\"w\"},{\"id\":3,\"a\":\"zz\"}]");
	CHECK_JSON(node, "SELECT 1 AS still_works", "[{\"still_works\":1}]");
	dqlitepy_node_destroy(node);
}

/* A column is called returning, a text holds the word: that is no RETURNING clause. */
static void returning_as_a_name(void)
{
	dqlitepy_handle node = new_node();
	CHECK_EXEC_NUMBERS(node, "CREATE TABLE t(id INTEGER PRIMARY KEY, \"returning\" TEXT)", 0, 0);
	CHECK_EXEC_NUMBERS(node, "INSERT INTO t(\"returning\") VALUES('RETURNING id')", 1, 1);
	CHECK_EXEC_NUMBERS(node, "INSERT INTO t([returning]) VALUES('x') /* RETURNING id */ -- RETURNING", 2, 1);
	CHECK_EXEC_NUMBERS(node, "insert into t(`returning`) values('y') returning`returning`", 3, 1);
	CHECK_JSON(node, "INSERT INTO t(\"returning\") VALUES('q') RETURNING id, \"returning\"", "[{\"id\":4,\"returning\":\"q\"}]");
	CHECK_JSON(node, "SELECT count(*) AS n FROM t", "[{\"n\":4}]");
	dqlitepy_node_destroy(node);
}

/* query takes statements that give none. */
static void query_without_rows(void)
{
	dqlitepy_handle node = new_node();
	CHECK_JSON(node, "CREATE TABLE t(id INTEGER PRIMARY KEY, a)", "[]");
	CHECK_JSON(node, "INSERT INTO t(a) VALUES(1)", "[]");
	CHECK_JSON(node, "SELECT * FROM t WHERE a = 2", "[]");
	CHECK_JSON(node, "INSERT INTO t(a) VALUES(2), (3) RETURNING id, a * 10 AS b", "[{\"id\":2,\"b\":20},{\"id\":3,\"b\":30}]");
	CHECK_JSON(node, "UPDATE t SET a = 0 WHERE id = 99 RETURNING id", "[]");
	CHECK_JSON(node, "BEGIN", "[]");
	CHECK_JSON(node, "DELETE FROM t", "[]");
	CHECK_JSON(node, "ROLLBACK", "[]");
	CHECK_JSON(node, "SELECT count(*) AS n FROM t;", "[{\"n\":3}]"); /* a semicolon at the end, */
	CHECK_JSON(node, "SELECT 1 AS a; -- done", "[{\"a\":1}]");       /* or a comment, is no second statement */
	dqlitepy_node_destroy(node);
}

static void nothing_to_run(void)
{
	static const char *const texts[] = { "", " ", "\n\t ", ";", ";;", "-- comment", "/* comment */", "-- a\n/* b */ ; ;", "/* open" };
	dqlitepy_handle node = new_node();
	CHECK_EXEC(node, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
		CHECK_EXEC_NUMBERS(node, texts[i], 0, 0);
		CHECK_JSON(node, texts[i], "[]");
	}
	CHECK_JSON(node, "SELECT a FROM t", "[{\"a\":1}]");
	dqlitepy_node_destroy(node);
}

static void several_statements(void)
{
	dqlitepy_handle node = new_node();
	CHECK_EXEC_NUMBERS(node,
			   "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT);\n"
			   "INSERT INTO t(a) VALUES('x;y'); -- a ; in a comment\n"
			   "SELECT * FROM t; /* ; */ INSERT INTO t(a) VALUES('it''s; fine'), (';') RETURNING id;",
			   3, 2);
	CHECK_JSON(node, "SELECT a FROM t ORDER BY id", "[{\"a\":\"x;y\"},{\"a\":\"it's; fine\"},{\"a\":\";\"}]");
	CHECK_EXEC(node, "BEGIN; INSERT INTO t(a) VALUES('in'); COMMIT; BEGIN; INSERT INTO t(a) VALUES('out'); ROLLBACK");
	CHECK_JSON(node, "SELECT a FROM t WHERE id > 3", "[{\"a\":\"in\"}]");
	/* 500 statements in one text. */
	char text[40000];
	size_t n = 0;
	for (int i = 0; i < 500; i++)
		n += (size_t)snprintf(text + n, sizeof text - n, "INSERT INTO t(a) VALUES('row %d;');\n", i);
	CHECK_EXEC_NUMBERS(node, text, 504, 1);
	CHECK_JSON(node, "SELECT count(*) AS n, sum(length(a)) AS l FROM t WHERE id > 4", "[{\"n\":500,\"l\":3890}]");
	dqlitepy_node_destroy(node);
}

static void triggers(void)
{
	dqlitepy_handle node = new_node();
	CHECK_EXEC_NUMBERS(node,
			   "CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE TABLE log(id INTEGER PRIMARY KEY, what TEXT);\n"
			   "CREATE TRIGGER one AFTER INSERT ON t BEGIN\n"
			   "  INSERT INTO log(what) VALUES('in;sert ' || new.a);\n"
			   "  UPDATE t SET a = CASE WHEN new.a > 5 THEN 5 ELSE new.a END WHERE id = new.id; -- END;\n"
			   "END;\n"
			   "create temp trigger if not exists two after delete on t when old.a is not null begin\n"
			   "  insert into log(what) values(';deleted'); end;\n"
			   "INSERT INTO t(a) VALUES(9)",
			   1, 1);
	CHECK_EXEC(node, "DELETE FROM t WHERE id = 1");
	CHECK_JSON(node, "SELECT what FROM log", "[{\"what\":\"in;sert 9\"},{\"what\":\";deleted\"}]");
	/* The ids and counts of what the trigger did are not those of the statement. */
	CHECK_EXEC_NUMBERS(node, "INSERT INTO log(what) VALUES('many'), ('more')", 4, 2);
	CHECK_EXEC_NUMBERS(node, "INSERT INTO t(a) VALUES(1)", 1, 1);
	dqlitepy_node_destroy(node);
}

static void numbers(void)
{
	dqlitepy_handle node = new_node();
	CHECK_EXEC_NUMBERS(node, "CREATE TABLE t(id INTEGER PRIMARY KEY, a)", 0, 0);
	CHECK_EXEC_NUMBERS(node, "INSERT INTO t(id, a) VALUES(9223372036854775807, 1)", 9223372036854775807LL, 1);
	CHECK_EXEC_NUMBERS(node, "INSERT INTO t(id, a) VALUES(-5, 1)", -5, 1);
	CHECK_EXEC_NUMBERS(node, "INSERT INTO t(id, a) VALUES(41, 1), (42, 2), (43, 3)", 43, 3);
	/* Nothing stale after statements that change no row. */
	CHECK_EXEC_NUMBERS(node, "CREATE TABLE u(x)", 0, 0);
	CHECK_EXEC_NUMBERS(node, "CREATE INDEX i ON t(a)", 0, 0);
	CHECK_EXEC_NUMBERS(node, "BEGIN", 0, 0);
	CHECK_EXEC_NUMBERS(node, "SELECT count(*) FROM t", 0, 0);
	CHECK_EXEC_NUMBERS(node, "SAVEPOINT s", 0, 0);
	CHECK_EXEC_NUMBERS(node, "RELEASE s", 0, 0);
	CHECK_EXEC_NUMBERS(node, "COMMIT", 0, 0);
	CHECK_EXEC_NUMBERS(node, "PRAGMA user_version = 3", 0, 0);
	CHECK_EXEC_NUMBERS(node, "ALTER TABLE u RENAME TO v", 0, 0);
	CHECK_EXEC_NUMBERS(node, "DROP TABLE v", 0, 0);
	CHECK_EXEC_NUMBERS(node, "", 0, 0);
	int64_t id, rows;
	CHECK_OK(dqlitepy_node_exec(node, "UPDATE t SET a = 7 WHERE id > 40", &id, &rows));
	CHECK_INT(rows, 4);
	CHECK_OK(dqlitepy_node_exec(node, "UPDATE t SET a = 7 WHERE id = 1", &id, &rows));
	CHECK_INT(rows, 0);
	CHECK_OK(dqlitepy_node_exec(node, "DELETE FROM t", &id, &rows));
	CHECK_INT(rows, 5);
	CHECK_EXEC_NUMBERS(node, "INSERT INTO t(id, a) SELECT 41, 1 WHERE 0", 0, 0);
	dqlitepy_node_destroy(node);
}

static void transactions(void)
{
	dqlitepy_handle node = new_node();
	CHECK_EXEC(node, "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE)");
	CHECK_EXEC(node, "BEGIN TRANSACTION");
	CHECK_EXEC_NUMBERS(node, "INSERT INTO t(a) VALUES(1)", 1, 1);
	CHECK_JSON(node, "SELECT a FROM t", "[{\"a\":1}]"); /* its own writes are visible inside */
	CHECK_JSON(node, "INSERT INTO t(a) VALUES(2) RETURNING id", "[{\"id\":2}]");
	CHECK_EXEC(node, "ROLLBACK");
	CHECK_JSON(node, "SELECT a FROM t", "[]");

	CHECK_EXEC(node, "BEGIN IMMEDIATE; INSERT INTO t(a) VALUES(1)");
	CHECK_EXEC_FAILS(node, "BEGIN", 1001, "within a transaction");
	CHECK_EXEC_FAILS(node, "INSERT INTO t(a) VALUES(1)", 1019, "UNIQUE"); /* the transaction lives on */
	CHECK_QUERY_FAILS(node, "INSERT INTO t(a) VALUES(1) RETURNING a", 1019, "UNIQUE");
	CHECK_EXEC(node, "INSERT INTO t(a) VALUES(2)");
	CHECK_EXEC(node, "COMMIT");
	CHECK_JSON(node, "SELECT a FROM t", "[{\"a\":1},{\"a\":2}]");

	CHECK_EXEC(node, "BEGIN");
	CHECK_EXEC(node, "SAVEPOINT outer_one; INSERT INTO t(a) VALUES(3)");
	CHECK_EXEC(node, "SAVEPOINT inner_one; INSERT INTO t(a) VALUES(4)");
	CHECK_EXEC(node, "ROLLBACK TO inner_one");
	CHECK_EXEC(node, "RELEASE outer_one; END");
	CHECK_JSON(node, "SELECT a FROM t WHERE a > 2", "[{\"a\":3}]");
	CHECK_EXEC(node, "SAVEPOINT alone; INSERT INTO t(a) VALUES(5)"); /* a savepoint outside opens a transaction */
	CHECK_EXEC_FAILS(node, "BEGIN", 1001, "within a transaction");
	CHECK_EXEC(node, "RELEASE alone");
	CHECK_EXEC(node, "BEGIN; COMMIT");
	dqlitepy_node_destroy(node);
}

/* An open transaction does not survive a stop. */
static void transaction_and_stop(void)
{
	dqlitepy_handle node = new_node();
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	CHECK_EXEC(node, "BEGIN; INSERT INTO t VALUES(1)");
	CHECK_OK(dqlitepy_node_stop(node));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_JSON(node, "SELECT a FROM t", "[]");
	CHECK_EXEC(node, "BEGIN; INSERT INTO t VALUES(2); COMMIT");
	dqlitepy_node_destroy(node);
}

/* What belongs to the connection stays with the handle. */
static void one_session(void)
{
	dqlitepy_handle node = new_node();
	CHECK_EXEC(node, "CREATE TEMP TABLE mine(a); INSERT INTO mine VALUES(5)");
	CHECK_JSON(node, "SELECT a FROM mine", "[{\"a\":5}]");
	CHECK_EXEC(node, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
	CHECK_EXEC_NUMBERS(node, "INSERT INTO t VALUES(12), (13)", 13, 2);
	CHECK_JSON(node, "SELECT last_insert_rowid() AS id, changes() AS n", "[{\"id\":13,\"n\":2}]");
	CHECK_EXEC(node, "PRAGMA foreign_keys = OFF");
	CHECK_JSON(node, "PRAGMA foreign_keys", "[{\"foreign_keys\":0}]");
	dqlitepy_node_destroy(node);
}

/* Each database of a handle has a session: a transaction that is open in one stays open. */
static void a_session_for_each_database(void)
{
	dqlitepy_handle node = new_node();
	CHECK_EXEC(node, "CREATE TABLE t(a); BEGIN; INSERT INTO t VALUES(1)");
	CHECK_OK(dqlitepy_node_open_db(node, "second.db"));
	CHECK_EXEC(node, "CREATE TABLE u(a); INSERT INTO u VALUES(1)");
	CHECK_EXEC_FAILS(node, "COMMIT", 1001, "no transaction");
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_JSON(node, "SELECT count(*) AS n FROM t", "[{\"n\":1}]");
	CHECK_EXEC(node, "ROLLBACK");
	CHECK_JSON(node, "SELECT count(*) AS n FROM t", "[{\"n\":0}]");
	dqlitepy_node_destroy(node);
}

/* A call ends by its deadline, and what it ran ends with it: one second later the write lock is free. */
static void deadline(void)
{
	static const char *const slow[] = {
		"INSERT INTO t WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 1000000000) SELECT max(n) FROM s",
		"WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 1000000000) SELECT count(*) FROM s",
	};
	if (getenv("CHECK_UNDER"))
		check_skip("half a second is not enough under %s", getenv("CHECK_UNDER"));
	dqlitepy_handle node = 0;
	int64_t id, rows;
	CHECK_OK(dqlitepy_node_create(1, free_address(), path_in_test_dir("node"), &node));
	CHECK_OK(dqlitepy_node_set_timeout(node, 500));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	for (int i = 0; i < 2; i++) {
		double start = now();
		int rc = dqlitepy_node_exec(node, slow[i], &id, &rows);
		CHECK_INT(rc, i == 0 ? DQLITEPY_UNKNOWN : DQLITEPY_TIMEOUT); /* a read changes nothing */
		CHECK(last_error_text()[0] != 0);
		CHECK(now() - start > 0.45);
		CHECK_WITHIN(start, 1.5);
		start = now();
		while (dqlitepy_node_exec(node, "INSERT INTO t VALUES(1)", &id, &rows) != 0)
			CHECK_WITHIN(start, 1.5);
	}
	CHECK_JSON(node, "SELECT count(*) AS n FROM t", "[{\"n\":2}]"); /* the slow one was not applied after all */
	dqlitepy_node_destroy(node);
}

/* What the SQLite of Debian, under which go-dqlite runs, can do: databases in use rely on it. */
static void features(void)
{
	dqlitepy_handle node = new_node();
	CHECK_JSON(node, "SELECT json_extract('{\"a\":[1,2]}', '$.a[1]') AS j, soundex('Robert') AS s", "[{\"j\":2,\"s\":\"R163\"}]");
	CHECK_EXEC(node, "CREATE VIRTUAL TABLE f5 USING fts5(x); INSERT INTO f5 VALUES('hello world')");
	CHECK_JSON(node, "SELECT x FROM f5 WHERE f5 MATCH 'hello'", "[{\"x\":\"hello world\"}]");
	CHECK_EXEC(node, "CREATE VIRTUAL TABLE r USING rtree(id, a, b); INSERT INTO r VALUES(1, 0, 2)");
	CHECK_JSON(node, "SELECT id FROM r WHERE a <= 1 AND b >= 1", "[{\"id\":1}]");
	CHECK_EXEC(node, "CREATE VIRTUAL TABLE f4 USING fts4(x); INSERT INTO f4 VALUES('hello world')");
	CHECK_JSON(node, "SELECT x FROM f4 WHERE f4 MATCH 'world'", "[{\"x\":\"hello world\"}]");
	CHECK_JSON(node, "SELECT floor(1.5) AS f, ceil(1.5) AS c, sqrt(16) AS s, pow(2, 10) AS p, mod(7, 4) AS m, round(pi(), 4) AS q",
		   "[{\"f\":1.0,\"c\":2.0,\"s\":4.0,\"p\":1024.0,\"m\":3.0,\"q\":3.1416}]");
	CHECK_EXEC(node, "CREATE TABLE t(a, b AS (floor(a / 2.0)) STORED); INSERT INTO t(a) VALUES(5)");
	CHECK_EXEC(node, "CREATE TABLE big(a); INSERT INTO big WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 20000) SELECT n FROM s");
	CHECK_EXEC(node, "DELETE FROM big WHERE a % 2");
	CHECK_EXEC(node, "VACUUM");
	CHECK_EXEC(node, "ANALYZE");
	CHECK_JSON(node, "PRAGMA integrity_check", "[{\"integrity_check\":\"ok\"}]");
	dqlitepy_node_destroy(node);
}

static void json_values(void)
{
	dqlitepy_handle node = new_node();
	CHECK_JSON(node, "SELECT 9223372036854775807 AS a, -9223372036854775807 - 1 AS b, 0 AS c",
		   "[{\"a\":9223372036854775807,\"b\":-9223372036854775808,\"c\":0}]");
	CHECK_JSON(node, "SELECT 9007199254740993 AS a", "[{\"a\":9007199254740993}]"); /* no double holds it */
	CHECK_JSON(node, "SELECT 1.0 AS a, 0.1 AS b, -0.5 AS c, 100.0 AS d", "[{\"a\":1.0,\"b\":0.1,\"c\":-0.5,\"d\":100.0}]");
	CHECK_JSON(node, "SELECT 9e999 AS a, -9e999 AS b, 9e999 - 9e999 AS c", "[{\"a\":9e999,\"b\":-9e999,\"c\":null}]");
	CHECK_JSON(node, "SELECT NULL AS a, '' AS b, x'' AS c", "[{\"a\":null,\"b\":\"\",\"c\":\"\"}]");
	CHECK_JSON(node, "SELECT 'say \"hi\"' AS a, 'back\\slash' AS b, 'two' || char(10) || 'lines' AS c",
		   "[{\"a\":\"say \\\"hi\\\"\",\"b\":\"back\\\\slash\",\"c\":\"two\\nlines\"}]");
	CHECK_JSON(node, "SELECT 'h\xc3\xa4llo' AS a, '\xf0\x9f\x98\x80' AS b", "[{\"a\":\"h\xc3\xa4llo\",\"b\":\"\xf0\x9f\x98\x80\"}]");
	CHECK_JSON(node, "SELECT char(1) AS a, 'a' || char(0) || 'b' AS b", "[{\"a\":\"\\u0001\",\"b\":\"a\\u0000b\"}]");
	CHECK_JSON(node, "SELECT x'00ff41' AS a, x'c3a4' AS b", "[{\"a\":\"\\u0000\\udcffA\",\"b\":\"\xc3\xa4\"}]");
	CHECK_JSON(node, "SELECT x'80c3' AS a, CAST(x'41ff' AS TEXT) AS b", "[{\"a\":\"\\udc80\\udcc3\",\"b\":\"A\\udcff\"}]");
	CHECK_JSON(node, "SELECT x'eda080' AS a", "[{\"a\":\"\\udced\\udca0\\udc80\"}]"); /* a surrogate is not UTF-8 */
	/* Keys: in the order of the SELECT, doubled ones both, odd ones escaped. */
	CHECK_JSON(node, "SELECT 1 AS z, 2 AS a, 3 AS m", "[{\"z\":1,\"a\":2,\"m\":3}]");
	CHECK_JSON(node, "SELECT 1 AS a, 2 AS a", "[{\"a\":1,\"a\":2}]");
	CHECK_JSON(node, "SELECT 1 AS \"q\"\"uote\", 2 AS \"\"", "[{\"q\\\"uote\":1,\"\":2}]");
	dqlitepy_node_destroy(node);
}

/* Any value may stand in any column; plain dqlite aborts the process on some of these. */
static void mistyped_values(void)
{
	dqlitepy_handle node = new_node();
	CHECK_EXEC(node, "CREATE TABLE b(id INTEGER PRIMARY KEY, v BOOLEAN)");
	CHECK_EXEC(node, "INSERT INTO b(v) VALUES(1), (0), (5), (NULL), ('yes'), (1.5), (x'41'), ('')");
	CHECK_JSON(node, "SELECT v FROM b ORDER BY id",
		   "[{\"v\":true},{\"v\":false},{\"v\":true},{\"v\":null},{\"v\":\"yes\"},{\"v\":1.5},{\"v\":\"A\"},{\"v\":\"\"}]");
	static const char *const types[] = { "DATETIME", "TIMESTAMP", "DATE", "datetime" };
	for (int i = 0; i < 4; i++) {
		char sql[300];
		snprintf(sql, sizeof sql,
			 "DROP TABLE IF EXISTS d; CREATE TABLE d(id INTEGER PRIMARY KEY, v %s); INSERT INTO d(v) VALUES"
			 "('2024-01-02 03:04:05'), ('2024-01-02T03:04:05Z'), ('2024-01-02'), (1704164645), (NULL), (''), ('soon'),"
			 "(2460311.5), (x'4142'), ('2024-01-02 03:04:05.678'), ('2024-01-02 03:04:05+02:00')",
			 types[i]);
		CHECK_EXEC(node, sql);
		CHECK_JSON(node, "SELECT v FROM d ORDER BY id",
			   "[{\"v\":\"2024-01-02T03:04:05Z\"},{\"v\":\"2024-01-02T03:04:05Z\"},{\"v\":\"2024-01-02T00:00:00Z\"},"
			   "{\"v\":\"2024-01-02T03:04:05Z\"},{\"v\":null},{\"v\":\"\"},{\"v\":\"soon\"},{\"v\":2460311.5},"
			   "{\"v\":\"AB\"},{\"v\":\"2024-01-02T03:04:05.678Z\"},{\"v\":\"2024-01-02T03:04:05+02:00\"}]");
	}
	/* An expression has no declared type. */
	CHECK_JSON(node, "SELECT v + 0 AS v FROM b WHERE id = 1", "[{\"v\":1}]");
	CHECK_JSON(node, "SELECT max(v) AS v FROM d WHERE id = 4", "[{\"v\":1704164645}]");
	CHECK_JSON(node, "SELECT 1 AS alive", "[{\"alive\":1}]");
	dqlitepy_node_destroy(node);
}

static char *query(dqlitepy_handle node, const char *sql)
{
	char *json = NULL;
	CHECK_RC(dqlitepy_node_query(node, sql, &json), 0);
	CHECK(json != NULL);
	return json;
}

static void many_rows(void)
{
	dqlitepy_handle node = new_node();
	CHECK_EXEC(node, "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b REAL)");
	CHECK_EXEC_NUMBERS(node,
			   "INSERT INTO t(a, b) WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 100000) "
			   "SELECT 'row number ' || n, n + 0.5 FROM s",
			   100000, 100000);
	char *json = query(node, "SELECT id, a, b FROM t ORDER BY id"), *p = json;
	for (int i = 1; i <= 100000; i++) {
		char want[100];
		snprintf(want, sizeof want, "{\"id\":%d,\"a\":\"row number %d\",\"b\":%d.5}", i, i, i);
		p = strchr(p, '{');
		if (!p || strncmp(p, want, strlen(want)) != 0)
			check_fail(__FILE__, __LINE__, "row %d is %.80s", i, p ? p : "missing");
		p += strlen(want);
	}
	CHECK(strchr(p, '{') == NULL);
	dqlitepy_free(json);
	/* 255 one-column rows fill a message exactly: an empty part ends the result. */
	for (int n = 254; n <= 257; n++) {
		char sql[60], want[60];
		int rows = 0;
		snprintf(sql, sizeof sql, "SELECT id AS n FROM t WHERE id <= %d ORDER BY id", n);
		json = query(node, sql);
		for (p = json; (p = strchr(p, '{')) != NULL; p++)
			rows++;
		snprintf(want, sizeof want, "{\"n\":%d}]", n);
		CHECK_INT(rows, n);
		CHECK_HAS(json + strlen(json) - strlen(want), want);
		dqlitepy_free(json);
	}
	dqlitepy_node_destroy(node);
}

/* Of rows of every width one begins a word before the engine's buffer ends, on connections whose buffer has not grown yet:
 * the engine writes a row's header before it makes room for it. Only the address sanitizer or valgrind is sure to notice. */
static void rows_at_the_end_of_the_buffer(void)
{
	dqlitepy_handle node = new_node();
	char sql[4000], name[20];
	int words = (int)(sysconf(_SC_PAGESIZE) / 8);
	for (int columns = 1; columns <= 40; columns++) {
		/* In front of the rows are two words and the columns' names, of which the first is as long as it takes. */
		int row = columns + (columns + 15) / 16, more = (words - 1 - 2 - columns) % row;
		size_t n = (size_t)snprintf(sql, sizeof sql,
					    "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 600) SELECT n AS n%0*d",
					    8 * more + 1, 0);
		for (int i = 1; i < columns; i++)
			n += (size_t)snprintf(sql + n, sizeof sql - n, ", %d AS c%d", i, i);
		snprintf(sql + n, sizeof sql - n, " FROM s");
		snprintf(name, sizeof name, "%d.db", columns); /* a database not opened yet: a new connection */
		CHECK_OK(dqlitepy_node_open_db(node, name));
		char *json = query(node, sql);
		int rows = 0;
		for (char *p = json; (p = strchr(p, '{')) != NULL; p++)
			rows++;
		CHECK_INT(rows, 600);
		dqlitepy_free(json);
	}
	dqlitepy_node_destroy(node);
}

static void many_columns(void)
{
	dqlitepy_handle node = new_node();
	static char sql[30000], want[30000];
	for (int columns = 15; columns <= 1000; columns = columns < 18 ? columns + 1 : columns * 7) {
		size_t n = (size_t)snprintf(sql, sizeof sql, "SELECT "), m = (size_t)snprintf(want, sizeof want, "[{");
		for (int i = 0; i < columns; i++) {
			n += (size_t)snprintf(sql + n, sizeof sql - n, "%s%d AS c%d", i ? ", " : "", i, i);
			m += (size_t)snprintf(want + m, sizeof want - m, "%s\"c%d\":%d", i ? "," : "", i, i);
		}
		snprintf(want + m, sizeof want - m, "}]");
		char *json = query(node, sql);
		CHECK_TEXT(json, want);
		dqlitepy_free(json);
	}
	dqlitepy_node_destroy(node);
}

/* The name of a column without AS is its text. Names of more than a page must not stop the rows from coming (the plain
 * engine sends parts without rows for ever). */
static void long_column_names(void)
{
	dqlitepy_handle node = new_node();
	static char sql[12000], want[12000], name[10001];
	for (int length = 4000; length <= 10000; length += 50) {
		memset(name, 'x', (size_t)length);
		name[length] = 0;
		snprintf(sql, sizeof sql, "SELECT length('%s')", name);
		snprintf(want, sizeof want, "[{\"length('%s')\":%d}]", name, length);
		char *json = query(node, sql);
		CHECK_TEXT(json, want);
		dqlitepy_free(json);
	}
	dqlitepy_node_destroy(node);
}

static void large_values(void)
{
	enum { SIZE = 10 << 20 };
	dqlitepy_handle node = new_node();
	char *sql = malloc(SIZE + 100);
	int64_t id, rows;
	CHECK(sql != NULL);
	CHECK_EXEC(node, "CREATE TABLE t(id INTEGER PRIMARY KEY, a)");
	int head = sprintf(sql, "INSERT INTO t(a) VALUES('");
	memset(sql + head, 'x', SIZE);
	strcpy(sql + head + SIZE, "')");
	CHECK_OK(dqlitepy_node_exec(node, sql, &id, &rows));
	CHECK(id == 1 && rows == 1);
	CHECK_JSON(node, "SELECT length(a) AS n, substr(a, -1) AS z FROM t", "[{\"n\":10485760,\"z\":\"x\"}]");
	char *json = query(node, "SELECT a FROM t");
	CHECK_INT(strlen(json), SIZE + strlen("[{\"a\":\"\"}]"));
	CHECK(strspn(json + 7, "x") == SIZE);
	dqlitepy_free(json);
	/* A blob of which each byte takes six characters of JSON. */
	CHECK_EXEC(node, "INSERT INTO t(a) VALUES(zeroblob(1000000))");
	json = query(node, "SELECT a FROM t WHERE id = 2");
	CHECK_INT(strlen(json), 6000000 + strlen("[{\"a\":\"\"}]"));
	dqlitepy_free(json);
	free(sql);
	dqlitepy_node_destroy(node);
}

static void foreign_keys(void)
{
	dqlitepy_handle node = new_node();
	CHECK_EXEC(node, "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(p REFERENCES p(id) DEFERRABLE INITIALLY DEFERRED)");
	CHECK_EXEC_FAILS(node, "INSERT INTO c VALUES(1)", 1019, "FOREIGN KEY constraint failed");
	CHECK_EXEC(node, "BEGIN; INSERT INTO c VALUES(1)");
	CHECK_EXEC_FAILS(node, "COMMIT", 1019, "FOREIGN KEY constraint failed"); /* the transaction stays open */
	CHECK_EXEC(node, "INSERT INTO p VALUES(1)");
	CHECK_EXEC(node, "COMMIT");
	CHECK_JSON(node, "SELECT p FROM c", "[{\"p\":1}]");
	dqlitepy_node_destroy(node);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "exec_of_rows", exec_of_rows, 0 },
		{ "returning_as_a_name", returning_as_a_name, 0 },
		{ "query_without_rows", query_without_rows, 0 },
		{ "nothing_to_run", nothing_to_run, 0 },
		{ "several_statements", several_statements, 0 },
		{ "triggers", triggers, 0 },
		{ "numbers", numbers, 0 },
		{ "transactions", transactions, 0 },
		{ "transaction_and_stop", transaction_and_stop, 0 },
		{ "one_session", one_session, 0 },
		{ "a_session_for_each_database", a_session_for_each_database, 0 },
		{ "deadline", deadline, 0 },
		{ "features", features, 0 },
		{ "json_values", json_values, 0 },
		{ "mistyped_values", mistyped_values, 0 },
		{ "many_rows", many_rows, 60 },
		{ "rows_at_the_end_of_the_buffer", rows_at_the_end_of_the_buffer, 0 },
		{ "many_columns", many_columns, 0 },
		{ "long_column_names", long_column_names, 0 },
		{ "large_values", large_values, 60 },
		{ "foreign_keys", foreign_keys, 0 },
		{ NULL, NULL, 0 },
	};
	return check_main(argc, argv, tests);
}
