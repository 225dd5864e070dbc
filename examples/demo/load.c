/*
 * load.c - the main job in C: load a table, be killed, start again, and find everything that was acknowledged.
 *
 *   load load  DIRECTORY ADDRESS DATA          go on loading where the table ends; "acknowledged N" after each batch
 *   load check DIRECTORY ADDRESS DATA ROWS     compare the first ROWS rows with the data, each field of them
 *   load query DIRECTORY ADDRESS               some questions to the table
 *
 * DATA is what dataset.py writes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dqlitepy.h"

enum { BATCH = 100, FIELDS = 8, LINE = 5000 };

static void die(const char *what)
{
	char *message = dqlitepy_last_error();
	fprintf(stderr, "load: %s: %s\n", what, message ? message : "no message");
	exit(1);
}

static int64_t exec(dqlitepy_handle node, const char *sql)
{
	int64_t last_insert_id, rows_affected;
	if (dqlitepy_node_exec(node, sql, &last_insert_id, &rows_affected) != DQLITEPY_OK)
		die("exec");
	return rows_affected;
}

/* The caller frees the JSON with dqlitepy_free. */
static char *query(dqlitepy_handle node, const char *sql)
{
	char *json;
	if (dqlitepy_node_query(node, sql, &json) != DQLITEPY_OK)
		die("query");
	return json;
}

/* A query for one number called n. */
static long number(dqlitepy_handle node, const char *sql)
{
	long n;
	char *json = query(node, sql);
	if (sscanf(json, "[{\"n\":%ld}]", &n) != 1)
		die(json);
	dqlitepy_free(json);
	return n;
}

static dqlitepy_handle start(const char *directory, const char *address)
{
	dqlitepy_handle node;
	if (dqlitepy_node_create(dqlitepy_generate_node_id(address), address, directory, &node) != DQLITEPY_OK)
		die("create");
	if (dqlitepy_node_start(node) != DQLITEPY_OK)
		die("start");
	if (dqlitepy_node_open_db(node, "files.db") != DQLITEPY_OK)
		die("open_db");
	exec(node, "CREATE TABLE IF NOT EXISTS files (id INTEGER PRIMARY KEY, package TEXT, path TEXT, size INTEGER, kib REAL, "
		   "changed DATETIME, executable BOOLEAN, md5 BLOB)");
	return node;
}

static void append_text(char **end, const char *text)
{
	*(*end)++ = '\'';
	for (; *text; *(*end)++ = *text++)
		if (*text == '\'')
			*(*end)++ = '\'';
	*(*end)++ = '\'';
}

/* "(1, 'adduser', ..., X'2ba0')" of one line of the data. */
static void append_row(char **end, char *line)
{
	*(*end)++ = '(';
	for (int i = 0; i < FIELDS; i++) {
		char *field = line;
		line += strcspn(line, "\t\n");
		*line++ = 0;
		if (i > 0)
			*(*end)++ = ',';
		if (strcmp(field, "\\N") == 0)
			*end += sprintf(*end, "NULL");
		else if (i == 7)
			*end += sprintf(*end, "X'%s'", field);
		else if (i == 1 || i == 2 || i == 5)
			append_text(end, field);
		else
			*end += sprintf(*end, "%s", field);
	}
	*(*end)++ = ')';
}

/* The next rows of the data, at most `most`, as a list for VALUES; how many there are. */
static int read_rows(FILE *data, int most, char *sql)
{
	static char line[LINE];
	int rows = 0;
	while (rows < most && fgets(line, sizeof line, data)) {
		if (rows++ > 0)
			*sql++ = ',';
		append_row(&sql, line);
	}
	*sql = 0;
	return rows;
}

static FILE *open_data(const char *path)
{
	FILE *data = fopen(path, "r");
	if (!data) {
		perror(path);
		exit(1);
	}
	return data;
}

static char sql[BATCH * LINE * 2 + 1000];

static void load(dqlitepy_handle node, FILE *data)
{
	static char line[LINE];
	long there = number(node, "SELECT count(*) AS n FROM files");
	for (long i = 0; i < there; i++)
		if (!fgets(line, sizeof line, data))
			break;
	for (;;) {
		int head = sprintf(sql, "INSERT INTO files VALUES ");
		int rows = read_rows(data, BATCH, sql + head);
		if (rows == 0)
			break;
		there += exec(node, sql);
		printf("acknowledged %ld\n", there);
		fflush(stdout);
	}
}

static void check(dqlitepy_handle node, FILE *data, long wanted)
{
	static char values[BATCH * LINE * 2];
	long same = 0, seen = 0;
	while (seen < wanted) {
		int rows = read_rows(data, wanted - seen < BATCH ? (int)(wanted - seen) : BATCH, values);
		if (rows == 0)
			break;
		sprintf(sql, "WITH want (id, package, path, size, kib, changed, executable, md5) AS (VALUES %s) "
			     "SELECT count(*) AS n FROM want JOIN files USING (id) WHERE files.package = want.package "
			     "AND files.path = want.path AND files.size IS want.size AND files.kib IS want.kib "
			     "AND files.changed IS want.changed AND files.executable IS want.executable AND files.md5 = want.md5",
			values);
		same += number(node, sql);
		seen += rows;
	}
	printf("%ld of %ld acknowledged rows are there and equal, %ld rows in all\n", same, wanted,
	       number(node, "SELECT count(*) AS n FROM files"));
	if (same != wanted)
		exit(1);
}

static void ask(dqlitepy_handle node)
{
	static const char *const questions[] = {
		"SELECT count(*) AS files, sum(size) / 1048576 AS mib, min(changed) AS oldest, max(changed) AS newest FROM files",
		"SELECT package, count(*) AS files, round(sum(kib)) AS kib FROM files GROUP BY package ORDER BY kib DESC LIMIT 3",
		"SELECT path, size, changed, executable, hex(md5) AS md5 FROM files ORDER BY size DESC LIMIT 2",
	};
	for (size_t i = 0; i < sizeof questions / sizeof *questions; i++) {
		char *json = query(node, questions[i]);
		printf("%s\n  %s\n", questions[i], json);
		dqlitepy_free(json);
	}
}

int main(int argc, char **argv)
{
	if (argc < 4) {
		fprintf(stderr, "usage: load load|check|query DIRECTORY ADDRESS [DATA] [ROWS]\n");
		return 2;
	}
	dqlitepy_handle node = start(argv[2], argv[3]);
	if (strcmp(argv[1], "load") == 0 && argc == 5)
		load(node, open_data(argv[4]));
	else if (strcmp(argv[1], "check") == 0 && argc == 6)
		check(node, open_data(argv[4]), atol(argv[5]));
	else
		ask(node);
	if (dqlitepy_node_stop(node) != DQLITEPY_OK)
		die("stop");
	dqlitepy_node_destroy(node);
	return 0;
}
