/* How costs grow: with the size of the database, of the cluster and of a value, and with the number of connections. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

#define MEGABYTE                                                                                                       \
	"INSERT INTO big(b) WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 256) "               \
	"SELECT randomblob(4000) FROM s"

/* Some 4 KB, half of which repeats itself. */
#define TEXT "replace(hex(randomblob(1000)), 'A', ' an ordinary word')"

enum { CALLS = 300, ROW = 200, MOST_NODES = 16, LOOK_US = 5000, LONGEST_JOIN_S = 1800 };

static void timed(struct timing *timing, const struct library *library, handle node, const char *sql)
{
	double t = now();
	run(library, node, sql);
	timing_add(timing, now() - t);
	timing->wall += now() - t;
}

struct joiner {
	const struct library *library;
	handle node;
	const char *leader, *address;
	double took;
	atomic_bool done;
};

/* From some GB on a start reads for longer than it may usually take. */
static void be_patient(const struct library *library, handle node)
{
	if (library->node_set_start_timeout != NULL) {
		must(library, "start timeout", library->node_set_start_timeout(node, LONGEST_JOIN_S * 1000));
		must(library, "stop timeout", library->node_set_stop_timeout(node, LONGEST_JOIN_S * 1000));
	}
}

static bool votes(const struct library *library, handle client, const char *address)
{
	char *members;
	must(library, "cluster", library->client_cluster(client, &members));
	const char *found = strstr(members, address);
	found = found != NULL ? strstr(found, "\"role\": ") : NULL;
	bool is_voter = found != NULL && found[8] == '0';
	library->free(members);
	return is_voter;
}

/* A start ends when the node is a member, and a large database still arrives then; with a vote it has everything. */
static void *join_main(void *arg)
{
	struct joiner *joiner = arg;
	handle client;
	double t = now();
	must(joiner->library, "join", joiner->library->node_start(joiner->node));
	must(joiner->library, "client", joiner->library->client_create(joiner->leader, &client));
	while (!votes(joiner->library, client, joiner->address)) {
		usleep(LOOK_US);
		if (now() - t > LONGEST_JOIN_S) {
			die("join", "the node does not become a voter");
		}
	}
	joiner->library->client_close(client);
	joiner->took = now() - t;
	atomic_store(&joiner->done, true);
	return NULL;
}

/* Another node joins, as a voter, with everything that is there, while the first one goes on writing; then it goes again. */
static void join(const struct library *library, handle node, const char *address, const char *dir, const char *megabytes)
{
	struct timing insert = { 0 };
	char theirs[64], folder[512], extra[256];
	struct joiner joiner = { .library = library, .leader = address, .address = theirs };
	handle client;
	pthread_t thread;
	snprintf(folder, sizeof folder, "%s-%s", dir, megabytes);
	joiner.node = node_beside(library, folder, address, theirs);
	be_patient(library, joiner.node);
	if (pthread_create(&thread, NULL, join_main, &joiner) != 0) {
		die("join", "no thread is left");
	}
	while (!atomic_load(&joiner.done)) {
		timed(&insert, library, node, "INSERT INTO small(n) VALUES (9)");
	}
	pthread_join(thread, NULL);
	snprintf(extra, sizeof extra, " mb=%s join_us=%.0f", megabytes, joiner.took * 1e6);
	timing_print(&insert, "insert_meanwhile", "library", extra);
	must(library, "client", library->client_create(address, &client));
	must(library, "remove", library->client_remove(client, library->generate_node_id(theirs)));
	library->client_close(client);
	library->node_stop(joiner.node);
	library->node_destroy(joiner.node);
}

int mode_growth(const struct library *library, const char *dir, int count, char **megabytes)
{
	char address[64], extra[256];
	struct snapshots snapshots;
	handle node = node_up(library, dir, address);
	snapshots_watch(&snapshots, dir);
	be_patient(library, node);
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
		snapshots_print(&snapshots, extra);
		long memory = process_status("VmRSS");
		double t0 = now();
		must(library, "stop", library->node_stop(node));
		double t1 = now();
		must(library, "start", library->node_start(node));
		must(library, "open_db", library->node_open_db(node, "bench.db"));
		run(library, node, "INSERT INTO small(n) VALUES (8)");
		printf("restart mb=%s memory_kb=%ld stop_us=%.0f restart_us=%.0f restarted_kb=%ld peak_kb=%ld\n", megabytes[i],
		       memory, (t1 - t0) * 1e6, (now() - t1) * 1e6, process_status("VmRSS"), process_status("VmHWM"));
		join(library, node, address, dir, megabytes[i]);
		fflush(stdout);
	}
	snapshots_end(&snapshots);
	library->node_stop(node);
	library->node_destroy(node);
	return 0;
}

/* Nodes of one process, joined one after the other; the first one leads. */
int mode_cluster(const struct library *library, const char *dir, int count, char **numbers)
{
	char address[64], other[64], folder[512], extra[128];
	handle nodes[MOST_NODES];
	int size = 1;
	nodes[0] = node_up(library, dir, address);
	run(library, nodes[0], "CREATE TABLE small (id INTEGER PRIMARY KEY, n INTEGER)");
	for (int i = 0; i < count; i++) {
		double joining = now();
		int before = size;
		for (; size < atoi(numbers[i]) && size < MOST_NODES; size++) {
			snprintf(folder, sizeof folder, "%s-%d", dir, size);
			nodes[size] = node_beside(library, folder, address, other);
			must(library, "join", library->node_start(nodes[size]));
		}
		joining = size > before ? (now() - joining) / (size - before) : 0;
		struct timing insert = { 0 };
		double c0 = cpu_time();
		for (int k = 0; k < CALLS * 3; k++) {
			timed(&insert, library, nodes[0], "INSERT INTO small(n) VALUES (7)");
		}
		insert.cpu = cpu_time() - c0;
		snprintf(extra, sizeof extra, " nodes=%d join_us=%.0f memory_kb=%ld", size, joining * 1e6, process_status("VmRSS"));
		timing_print(&insert, "insert", "library", extra);
		fflush(stdout);
	}
	while (size-- > 0) {
		library->node_stop(nodes[size]);
		library->node_destroy(nodes[size]);
	}
	return 0;
}

int mode_values(const struct library *library, const char *dir, int count, char **bytes)
{
	char address[64], sql[256], extra[64], *json;
	handle node = node_up(library, dir, address);
	run(library, node, "CREATE TABLE v (id INTEGER PRIMARY KEY, t TEXT)");
	for (int i = 0; i < count; i++) {
		struct timing insert = { 0 }, select = { 0 };
		double end = now() + 1;
		for (int k = 0; k < CALLS && (k < 5 || now() < end); k++) {
			snprintf(sql, sizeof sql, "INSERT OR REPLACE INTO v VALUES (1, replace(hex(zeroblob(%s / 2)), '0', 'x'))", bytes[i]);
			timed(&insert, library, node, sql);
			double t = now();
			must(library, "query", library->node_query(node, "SELECT t FROM v", &json));
			timing_add(&select, now() - t);
			select.wall += now() - t;
			library->free(json);
		}
		snprintf(extra, sizeof extra, " bytes=%s", bytes[i]);
		timing_print(&insert, "insert", "library", extra);
		timing_print(&select, "select", "library", extra);
		fflush(stdout);
	}
	library->node_stop(node);
	library->node_destroy(node);
	return 0;
}

/* Rows of four columns, some 100 bytes of JSON each. */
int mode_results(const struct library *library, const char *dir, int count, char **rows)
{
	char address[64], sql[320], extra[160], *json;
	handle node = node_up(library, dir, address);
	for (int i = 0; i < count; i++) {
		struct timing select = { 0 };
		size_t size = 0;
		snprintf(sql, sizeof sql,
			 "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < %s) "
			 "SELECT n AS id, 'a name of some length ' || n AS name, n * 0.37 AS price, 'and a remark that says little' AS remark FROM s",
			 rows[i]);
		peak_memory_reset();
		long before = process_status("VmRSS");
		double end = now() + 1;
		for (int k = 0; k < CALLS && (k < 5 || now() < end); k++) {
			double t = now();
			must(library, "query", library->node_query(node, sql, &json));
			timing_add(&select, now() - t);
			select.wall += now() - t;
			size = strlen(json);
			library->free(json);
		}
		snprintf(extra, sizeof extra, " rows=%s bytes=%zu peak_kb=%ld", rows[i], size, process_status("VmHWM") - before);
		timing_print(&select, "select", "library", extra);
		fflush(stdout);
	}
	library->node_stop(node);
	library->node_destroy(node);
	return 0;
}

static void apply_setting(const struct library *library, handle node, int count, char **setting)
{
	if (count == 2) {
		must(library, "snapshot params", library->node_set_snapshot_params(node, atoi(setting[0]), atoi(setting[1]), 0));
	} else if (count == 1 && strcmp(setting[0], "uncompressed") == 0) {
		must(library, "compression", library->node_set_snapshot_compression(node, 0));
	}
}

/* Text that can be compressed, then writes of 4 KB all over it, then a restart: what a setting gives and what it takes. */
int mode_setting(const struct library *library, const char *dir, int count, char **given)
{
	enum { WRITES = 6000 };
	char address[64], sql[256];
	struct timing write = { 0 };
	struct snapshots snapshots;
	handle node = node_new(library, dir, address);
	apply_setting(library, node, count - 1, given + 1);
	must(library, "start", library->node_start(node));
	must(library, "open_db", library->node_open_db(node, "bench.db"));
	snapshots_watch(&snapshots, dir);
	run(library, node, "CREATE TABLE big (id INTEGER PRIMARY KEY, b TEXT)");
	for (int i = 0; i < atoi(given[0]); i++) {
		run(library, node,
		    "INSERT INTO big(b) WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 256) "
		    "SELECT " TEXT " FROM s");
	}
	snapshots_print(&snapshots, " part=fill");
	unsigned drawn = 1;
	for (int i = 0; i < WRITES; i++) {
		drawn = drawn * 1103515245 + 12345;
		snprintf(sql, sizeof sql, "UPDATE big SET b = " TEXT " WHERE id = %u",
			 1 + (drawn >> 8) % (atoi(given[0]) * 256));
		timed(&write, library, node, sql);
	}
	timing_print(&write, "update", "library", "");
	snapshots_print(&snapshots, " part=update");
	snapshots_end(&snapshots);
	long memory = process_status("VmRSS");
	must(library, "stop", library->node_stop(node));
	double began = now();
	must(library, "start", library->node_start(node));
	must(library, "open_db", library->node_open_db(node, "bench.db"));
	run(library, node, "UPDATE big SET b = 'x' WHERE id = 1");
	printf("restart memory_kb=%ld restart_us=%.0f\n", memory, (now() - began) * 1e6);
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
