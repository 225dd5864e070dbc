/* Databases out and in: dump, load_file, load_script, their callbacks and what they refuse. */
#include "check.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static dqlitepy_handle open_session(dqlitepy_handle node, const char *name)
{
	dqlitepy_handle session = 0;
	CHECK_OK(dqlitepy_session_open(node, name, &session));
	return session;
}

static long long number(dqlitepy_handle session, const char *sql)
{
	dqlitepy_handle rows = 0;
	int64_t value = -1;
	check_rc(__FILE__, __LINE__, sql, dqlitepy_session_query(session, sql, -1, &rows), DQLITEPY_OK);
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
	CHECK_OK(dqlitepy_rows_column_int64(rows, 0, &value));
	CHECK_OK(dqlitepy_rows_close(rows));
	return value;
}

struct seen {
	uint64_t done, total;
	int calls, stop_after;
};

static int report(void *data, uint64_t done, uint64_t total)
{
	struct seen *seen = data;
	CHECK(done >= seen->done && (total == 0 || done <= total));
	seen->done = done;
	seen->total = total;
	return ++seen->calls == seen->stop_after;
}

static void there_and_back(void)
{
	const char *path = path_in_test_dir("copy");
	dqlitepy_handle node = running_node(path_in_test_dir("node"), free_address());
	dqlitepy_handle one = open_session(node, "one.db"), two = open_session(node, "two.db");
	struct seen script = { 0, 0, 0, 0 }, dump = script, load = script;
	const char *sql = "CREATE TABLE t(a, b); CREATE INDEX i ON t(b);\n"
			  "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
			  "INSERT INTO t SELECT i, hex(randomblob(300)) FROM n; PRAGMA user_version = 5";
	CHECK_OK(dqlitepy_session_load_script(one, sql, -1, report, &script));
	CHECK(script.calls > 0 && script.done == strlen(sql) && script.total == strlen(sql));
	CHECK_OK(dqlitepy_session_dump(one, path, report, &dump));
	struct stat file;
	CHECK_INT(stat(path, &file), 0);
	CHECK(file.st_size > 12000000 && dump.total >= (uint64_t)file.st_size && dump.done == dump.total);
	CHECK_OK(dqlitepy_session_load_file(two, path, report, &load));
	CHECK(load.done == 20000 && load.total == 20000);
	CHECK_INT(number(two, "SELECT count(*) FROM t"), 20000);
	CHECK_INT(number(two, "SELECT count(*) FROM sqlite_schema WHERE name = 'i'"), 1);
	CHECK_INT(number(two, "PRAGMA user_version"), 5);
	CHECK_RC(dqlitepy_session_load_file(two, path, NULL, NULL), DQLITEPY_MISUSE);
	CHECK_ERROR_HAS("already has t, i");
	CHECK_OK(dqlitepy_session_dump(two, path, NULL, NULL));
	dqlitepy_node_destroy(node);
}

static void cancelled(void)
{
	dqlitepy_handle node = running_node(path_in_test_dir("node"), free_address());
	dqlitepy_handle session = open_session(node, "one.db");
	struct seen at_once = { 0, 0, 0, 1 };
	CHECK_RC(dqlitepy_session_load_script(session, "CREATE TABLE t(a)", 17, report, &at_once), DQLITEPY_INTERRUPTED);
	CHECK_INT(at_once.calls, 1);
	CHECK_INT(number(session, "SELECT count(*) FROM sqlite_schema"), 0);
	at_once = (struct seen){ 0, 0, 0, 1 };
	CHECK_RC(dqlitepy_session_dump(session, path_in_test_dir("copy"), report, &at_once), DQLITEPY_INTERRUPTED);
	CHECK_ERROR_HAS("progress callback");
	CHECK_INT(count_files(path_in_test_dir("copy")), 0);
	CHECK_INT(dqlitepy_session_error_code(session), DQLITEPY_INTERRUPTED);
	dqlitepy_node_destroy(node);
}

static void wrong_arguments(void)
{
	dqlitepy_handle node = running_node(path_in_test_dir("node"), free_address());
	dqlitepy_handle session = open_session(node, "one.db");
	CHECK_RC(dqlitepy_session_dump(session, NULL, NULL, NULL), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_session_dump(session, "", NULL, NULL), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_session_dump(session, "\xff", NULL, NULL), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_session_load_file(session, NULL, NULL, NULL), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_session_load_file(session, "", NULL, NULL), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_session_load_script(session, NULL, 5, NULL, NULL), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_session_load_script(session, "SELECT\0", 7, NULL, NULL), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_session_dump(node, "x", NULL, NULL), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_session_load_file(0, "x", NULL, NULL), DQLITEPY_NOTFOUND);
	dqlitepy_handle rows = 0;
	CHECK_OK(dqlitepy_session_query(session, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
					-1, &rows));
	CHECK_RC(dqlitepy_session_dump(session, path_in_test_dir("copy"), NULL, NULL), DQLITEPY_MISUSE);
	CHECK_OK(dqlitepy_rows_close(rows));
	CHECK_OK(dqlitepy_session_close(session));
	CHECK_RC(dqlitepy_session_dump(session, path_in_test_dir("copy"), NULL, NULL), DQLITEPY_NOTFOUND);
	session = open_session(node, "one.db");
	CHECK_OK(dqlitepy_node_stop(node));
	CHECK_RC(dqlitepy_session_dump(session, path_in_test_dir("copy"), NULL, NULL), DQLITEPY_SHUTDOWN);
	CHECK_INT(count_files(path_in_test_dir("copy")), 0);
	dqlitepy_node_destroy(node);
}

static const struct test tests[] = {
	{ "there_and_back", there_and_back, 0 },
	{ "cancelled", cancelled, 0 },
	{ "wrong_arguments", wrong_arguments, 0 },
	{ NULL, NULL, 0 },
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, tests);
}
