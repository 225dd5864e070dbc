/* How costs grow: with the size of the database, and with the number of connections. */
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"

#define MEGABYTE                                                                                                       \
	"INSERT INTO big(b) WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 256) "               \
	"SELECT randomblob(4000) FROM s"

enum { CALLS = 300, ROW = 200 };

static void timed(struct timing *timing, const struct library *library, handle node, const char *sql)
{
	double t = now();
	run(library, node, sql);
	timing_add(timing, now() - t);
	timing->wall += now() - t;
}

int mode_growth(const struct library *library, const char *dir, int count, char **megabytes)
{
	char address[64], extra[256];
	handle node = node_up(library, dir, address);
	run(library, node, "CREATE TABLE big (id INTEGER PRIMARY KEY, b BLOB)");
	run(library, node, "CREATE TABLE small (id INTEGER PRIMARY KEY, n INTEGER)");
	int filled = 0;
	for (int i = 0; i < count; i++) {
		struct timing fill = { 0 }, insert = { 0 };
		snprintf(extra, sizeof extra, " mb=%s", megabytes[i]);
		for (; filled < atoi(megabytes[i]); filled++) {
			timed(&fill, library, node, MEGABYTE);
		}
		for (int k = 0; k < CALLS; k++) {
			timed(&insert, library, node, "INSERT INTO small(n) VALUES (7)");
		}
		timing_print(&fill, "fill_1mb", "library", extra);
		timing_print(&insert, "insert", "library", extra);
		long memory = process_status("VmRSS");
		double t0 = now();
		must(library, "stop", library->node_stop(node));
		double t1 = now();
		must(library, "start", library->node_start(node));
		must(library, "open_db", library->node_open_db(node, "bench.db"));
		run(library, node, "INSERT INTO small(n) VALUES (8)");
		printf("restart mb=%s memory_kb=%ld stop_us=%.0f restart_us=%.0f restarted_kb=%ld peak_kb=%ld\n", megabytes[i],
		       memory, (t1 - t0) * 1e6, (now() - t1) * 1e6, process_status("VmRSS"), process_status("VmHWM"));
		fflush(stdout);
	}
	library->node_stop(node);
	library->node_destroy(node);
	return 0;
}

int mode_connections(const struct library *library, const char *dir, int count, char **numbers)
{
	char address[64], extra[128];
	handle node = node_up(library, dir, address), sessions[1024], rows;
	int open = 0;
	for (int i = 0; i < count; i++) {
		struct timing timing = { 0 };
		double opening = now();
		int before = open;
		for (; open < atoi(numbers[i]) && open < 1024; open++) {
			must(library, "session", library->session_open_addresses(address, "bench.db", &sessions[open]));
		}
		opening = open > before ? (now() - opening) / (open - before) : 0;
		double t0 = now(), c0 = cpu_time();
		for (int k = 0; k < CALLS * 10; k++) {
			double t = now();
			must(library, "query", library->session_query(sessions[k % open], "SELECT 1", -1, &rows));
			while (library->rows_step(rows) == ROW) {
			}
			library->rows_close(rows);
			timing_add(&timing, now() - t);
		}
		timing.wall = now() - t0;
		timing.cpu = cpu_time() - c0;
		snprintf(extra, sizeof extra, " connections=%d open_us=%.1f memory_kb=%ld threads=%ld", open, opening * 1e6,
			 process_status("VmRSS"), process_status("Threads"));
		timing_print(&timing, "select1", "library", extra);
	}
	for (int i = 0; i < open; i++) {
		library->session_close(sessions[i]);
	}
	library->node_stop(node);
	library->node_destroy(node);
	return 0;
}
