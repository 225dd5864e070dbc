/*
 * Puts any libdqlitepy.so through the same measurements, by its C ABI, and beside it the floor: the same requests as
 * prebuilt bytes on the very engine that the library runs. Both take turns in short blocks, so that what else the machine
 * does meets both. One line of key=value pairs per measurement.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <dlfcn.h>

#include "bench.h"

#define INSERT "INSERT INTO bench(a, b, c) VALUES (1, 'text value 1-22', 3.25)"
#define TABLE "(id INTEGER PRIMARY KEY, a INTEGER, b TEXT, c REAL)"
#define WIDE "(id INTEGER PRIMARY KEY, a INTEGER, b TEXT, c REAL, d TEXT)"
#define FILL                                                                                                           \
	"INSERT INTO wide(a, b, c, d) WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 100000) "  \
	"SELECT n * 7, 'row number ' || n, n * 0.5, 'some more text, the same in each row' FROM s"

/* How long each kind of call is measured. */
static double budget = 0.5;

/* --- One thread, in turns with the floor --- */

struct kind {
	const char *name;
	int type;
	const char *sql;
	int block; /* calls in a row */
	int warm;  /* calls that do not count */
	bool inside; /* each block is a transaction, whose begin and end do not count */
};

static const struct kind kinds[] = {
	{ "select1", QUERY_SQL, "SELECT 1", 200, 500, false },
	{ "insert", EXEC_SQL, INSERT, 20, 100, false },
	{ "insert_inside", EXEC_SQL, INSERT, 50, 200, true },
	{ "rows_10", QUERY_SQL, "SELECT id, a, b, c, d FROM wide LIMIT 10", 50, 50, false },
	{ "rows_10000", QUERY_SQL, "SELECT id, a, b, c, d FROM wide LIMIT 10000", 2, 2, false },
	{ "rows_100000", QUERY_SQL, "SELECT id, a, b, c, d FROM wide", 1, 1, false },
	{ .name = NULL },
};

static void call_library(const struct library *library, handle node, const struct kind *kind)
{
	if (kind->type == EXEC_SQL) {
		run(library, node, kind->sql);
	} else {
		char *json;
		must(library, kind->sql, library->node_query(node, kind->sql, &json));
		library->free(json);
	}
}

/* Nothing for a kind whose calls are no transaction. */
static void control(const struct library *library, handle node, struct wire *wire, const struct kind *kind, const char *sql)
{
	struct request request;
	if (kind->inside && wire != NULL) {
		wire_request(&request, EXEC_SQL, sql);
		wire_call(wire, &request);
	} else if (kind->inside) {
		run(library, node, sql);
	}
}

static void turns(const struct library *library, handle node, struct wire *wire, const struct kind *kind)
{
	struct timing ours = { 0 }, floor = { 0 };
	struct request request;
	wire_request(&request, kind->type, kind->sql);
	double end = 0;
	for (int round = 0; round == 0 || now() < end; round++) {
		/* The first round warms up. */
		int calls = round == 0 ? kind->warm : kind->block;
		control(library, node, NULL, kind, "BEGIN");
		double t0 = now(), c0 = cpu_time();
		for (int i = 0; i < calls; i++) {
			double t = now();
			call_library(library, node, kind);
			if (round > 0) {
				timing_add(&ours, now() - t);
			}
		}
		double t1 = now(), c1 = cpu_time();
		control(library, node, NULL, kind, "COMMIT");
		if (wire != NULL) {
			control(library, node, wire, kind, "BEGIN");
		}
		double t2 = now(), c2 = cpu_time();
		for (int i = 0; wire != NULL && i < calls; i++) {
			double t = now();
			wire_call(wire, &request);
			if (round > 0) {
				timing_add(&floor, now() - t);
			}
		}
		double t3 = now(), c3 = cpu_time();
		if (wire != NULL) {
			control(library, node, wire, kind, "COMMIT");
		}
		if (round == 0) {
			end = now() + budget;
			continue;
		}
		ours.wall += t1 - t0;
		ours.cpu += c1 - c0;
		floor.wall += t3 - t2;
		floor.cpu += c3 - c2;
	}
	timing_print(&ours, kind->name, "library", "");
	timing_print(&floor, kind->name, "floor", "");
}

/* --- Many threads on one handle --- */

struct crowd {
	const struct library *library;
	handle node;
	const char *sql;
	bool reads;
	double end;
};

struct member {
	const struct crowd *crowd;
	pthread_t thread;
	struct timing timing;
	long refused;
};

static void *member_main(void *arg)
{
	struct member *member = arg;
	const struct crowd *crowd = member->crowd;
	double t;
	while ((t = now()) < crowd->end) {
		int64_t id, changed;
		char *json;
		int rc = crowd->reads ? crowd->library->node_query(crowd->node, crowd->sql, &json) :
					crowd->library->node_exec(crowd->node, crowd->sql, &id, &changed);
		if (rc != 0) {
			member->refused++;
			continue;
		}
		if (crowd->reads) {
			crowd->library->free(json);
		}
		timing_add(&member->timing, now() - t);
	}
	return NULL;
}

static void threads(const struct library *library, handle node, const char *name, const char *sql, bool reads, int count)
{
	struct crowd crowd = { library, node, sql, reads, now() + budget };
	struct member members[64] = { 0 };
	struct timing all = { 0 };
	double t0 = now(), c0 = cpu_time();
	long refused = 0;
	char extra[64];
	for (int i = 0; i < count; i++) {
		members[i].crowd = &crowd;
		if (pthread_create(&members[i].thread, NULL, member_main, &members[i]) != 0) {
			die(name, "no thread is left");
		}
	}
	for (int i = 0; i < count; i++) {
		pthread_join(members[i].thread, NULL);
		refused += members[i].refused;
		for (size_t k = 0; k < members[i].timing.count; k++) {
			timing_add(&all, members[i].timing.seconds[k]);
		}
		free(members[i].timing.seconds);
	}
	all.wall = now() - t0;
	all.cpu = cpu_time() - c0;
	snprintf(extra, sizeof extra, " refused=%ld", refused);
	timing_print(&all, name, "library", extra);
}

/* Past the first segments of the log, so slowly that it is no load: what is measured is a node that has run for a while. */
static void run_in_log(const struct library *library, handle node)
{
	run(library, node, "CREATE TABLE warm (a BLOB)");
	for (int i = 0; i < 8; i++) {
		run(library, node, "INSERT INTO warm VALUES (zeroblob(8000000))");
		run(library, node, "DELETE FROM warm");
		usleep(150 * 1000);
	}
	run(library, node, "DROP TABLE warm");
}

static int mode_calls(const struct library *library, const char *dir)
{
	char address[64];
	handle node = node_up(library, dir, address);
	struct wire connection, *wire = wire_connect_local(&connection) ? &connection : NULL;
	run(library, node, "CREATE TABLE bench " TABLE);
	run_in_log(library, node);
	if (wire != NULL) {
		wire_open(wire, "bench.db");
	}
	for (const struct kind *kind = kinds; kind->name != NULL; kind++) {
		if (strcmp(kind->name, "rows_10") == 0) {
			run(library, node, "CREATE TABLE wide " WIDE);
			run(library, node, FILL);
		}
		turns(library, node, wire, kind);
	}
	if (wire != NULL) {
		wire_close(wire);
	}
	threads(library, node, "select1_8threads", "SELECT 1", true, 8);
	threads(library, node, "insert_1thread", INSERT, false, 1);
	threads(library, node, "insert_8threads", INSERT, false, 8);
	library->node_stop(node);
	library->node_destroy(node);
	return 0;
}

/* --- What it costs to be there --- */

static int mode_start(const char *path, const char *dir)
{
	struct library library;
	struct stat file;
	char address[64];
	long memory = process_status("VmRSS"), threads_before = process_status("Threads");
	double t0 = now();
	library_load(&library, path);
	double t1 = now();
	library.version_number();
	double t2 = now();
	long loaded_memory = process_status("VmRSS"), loaded_threads = process_status("Threads");
	double t3 = now();
	handle node = node_up(&library, dir, address);
	run(&library, node, "CREATE TABLE bench " TABLE);
	run(&library, node, INSERT);
	double t4 = now();
	usleep(300 * 1000); /* let it come to rest */
	double c0 = cpu_time(), idle = now();
	usleep((useconds_t)(budget * 4e6));
	printf("start library_bytes=%ld load_us=%.1f load_threads=%ld load_kb=%ld first_write_us=%.1f idle_kb=%ld "
	       "idle_threads=%ld idle_cpu_us_s=%.1f",
	       stat(path, &file) == 0 ? (long)file.st_size : -1, (t2 - t0) * 1e6, loaded_threads - threads_before,
	       loaded_memory - memory, (t4 - t3) * 1e6, process_status("VmRSS") - memory, process_status("Threads"),
	       (cpu_time() - c0) / (now() - idle) * 1e6);
	double t5 = now();
	must(&library, "stop", library.node_stop(node));
	printf(" stop_us=%.1f dlopen_us=%.1f\n", (now() - t5) * 1e6, (t1 - t0) * 1e6);
	library.node_destroy(node);
	return 0;
}

static int mode_memory(const struct library *library, const char *dir)
{
	char address[64], *json;
	handle node = node_up(library, dir, address);
	run(library, node, "CREATE TABLE wide " WIDE);
	run(library, node, FILL);
	long filled = process_status("VmRSS"), fill_peak = process_status("VmHWM");
	peak_memory_reset();
	for (int i = 0; i < 3; i++) {
		must(library, "query", library->node_query(node, "SELECT id, a, b, c, d FROM wide", &json));
		library->free(json);
	}
	long peak = process_status("VmHWM");
	printf("memory filled_kb=%ld fill_peak_kb=%ld query_peak_kb=%ld query_adds_kb=%ld after_kb=%ld\n", filled, fill_peak,
	       peak, peak - filled, process_status("VmRSS"));
	library->node_stop(node);
	library->node_destroy(node);
	return 0;
}

/* So many calls of one kind and nothing else, for tools that count instructions. */
static int mode_count(const struct library *library, const char *dir, const char *name, const char *count)
{
	char address[64];
	handle node = node_up(library, dir, address);
	run(library, node, "CREATE TABLE bench " TABLE);
	run(library, node, "CREATE TABLE wide " WIDE);
	if (strncmp(name, "rows", 4) == 0) {
		run(library, node, FILL);
	}
	for (const struct kind *kind = kinds; kind->name != NULL; kind++) {
		for (int i = 0; strcmp(kind->name, name) == 0 && i < atoi(count); i++) {
			call_library(library, node, kind);
		}
	}
	library->node_stop(node);
	library->node_destroy(node);
	return 0;
}

/* --- From outside --- */

/* A node until standard input ends, of the leader's cluster if one is named; its address goes to standard output. */
static int mode_serve(const struct library *library, const char *dir, const char *leader)
{
	char address[64];
	handle node;
	if (leader != NULL) {
		node = node_beside(library, dir, leader, address);
		must(library, "join", library->node_start(node));
	} else {
		node = node_up(library, dir, address);
		run(library, node, "CREATE TABLE bench " TABLE);
	}
	puts(address);
	fflush(stdout);
	while (getchar() != EOF) {
	}
	library->node_stop(node);
	library->node_destroy(node);
	return 0;
}

/* Takes turns: a bare connection to each of the addresses, and the library's own client to the first one. */
static int mode_remote(const struct library *library, int count, char **addresses)
{
	enum { BLOCK = 200, MOST = 4, ROW = 200 };
	struct wire wires[MOST];
	struct timing bare[MOST] = { 0 }, ours = { 0 };
	struct request request;
	handle session, rows;
	bool has_client = library->session_open_addresses != NULL;
	wire_request(&request, QUERY_SQL, "SELECT 1");
	for (int i = 0; i < count && i < MOST; i++) {
		wire_connect(&wires[i], addresses[i]);
		wire_open(&wires[i], "bench.db");
	}
	if (has_client) {
		must(library, "session", library->session_open_addresses(addresses[0], "bench.db", &session));
	}
	double end = now() + budget * (count + 1);
	for (bool warm = false; !warm || now() < end; warm = true) {
		for (int i = 0; i < count && i < MOST; i++) {
			double began = now(), c0 = cpu_time();
			for (int k = 0; k < BLOCK; k++) {
				double t = now();
				wire_call(&wires[i], &request);
				if (warm) {
					timing_add(&bare[i], now() - t);
				}
			}
			bare[i].wall += warm ? now() - began : 0;
			bare[i].cpu += warm ? cpu_time() - c0 : 0;
		}
		double began = now(), c0 = cpu_time();
		for (int k = 0; k < BLOCK && has_client; k++) {
			double t = now();
			must(library, "query", library->session_query(session, "SELECT 1", -1, &rows));
			while (library->rows_step(rows) == ROW) {
			}
			library->rows_close(rows);
			if (warm) {
				timing_add(&ours, now() - t);
			}
		}
		ours.wall += warm ? now() - began : 0;
		ours.cpu += warm ? cpu_time() - c0 : 0;
	}
	timing_print(&ours, "remote_select1", "library", "");
	for (int i = 0; i < count && i < MOST; i++) {
		timing_print(&bare[i], "remote_select1", i == 0 ? "bare" : "floor", "");
		wire_close(&wires[i]);
	}
	if (has_client) {
		library->session_close(session);
	}
	return 0;
}

/* Makes voters of bare engines, the ids 2, 3, ..., in the cluster of the first. */
static int mode_add(const struct library *library, int count, char **addresses)
{
	handle client;
	must(library, "client", library->client_create(addresses[0], &client));
	for (int i = 1; i < count; i++) {
		must(library, "add", library->client_add(client, (uint64_t)i + 1, addresses[i]));
	}
	library->client_close(client);
	return 0;
}

/* Takes turns: bare connections to the leaders of two clusters, the library's first. */
static int mode_replicated(char **addresses)
{
	enum { BLOCK = 50, SUBJECTS = 2 };
	const char *who[SUBJECTS] = { "bare", "floor" };
	struct wire wires[SUBJECTS];
	struct timing timing[SUBJECTS] = { 0 };
	struct request request, create;
	wire_request(&create, EXEC_SQL, "CREATE TABLE IF NOT EXISTS bench " TABLE);
	wire_request(&request, EXEC_SQL, INSERT);
	for (int i = 0; i < SUBJECTS; i++) {
		wire_connect(&wires[i], addresses[i]);
		wire_open(&wires[i], "bench.db");
		wire_call(&wires[i], &create);
	}
	double end = now() + budget * SUBJECTS;
	for (bool warm = false; !warm || now() < end; warm = true) {
		for (int i = 0; i < SUBJECTS; i++) {
			double began = now(), c0 = cpu_time();
			for (int k = 0; k < BLOCK; k++) {
				double t = now();
				wire_call(&wires[i], &request);
				if (warm) {
					timing_add(&timing[i], now() - t);
				}
			}
			timing[i].wall += warm ? now() - began : 0;
			timing[i].cpu += warm ? cpu_time() - c0 : 0;
		}
	}
	for (int i = 0; i < SUBJECTS; i++) {
		timing_print(&timing[i], "replicated_insert", who[i], "");
		wire_close(&wires[i]);
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct library library;
	const char *mode = argc > 3 ? argv[1] : "";
	if (getenv("BENCH_SECONDS") != NULL) {
		budget = atof(getenv("BENCH_SECONDS"));
	}
	if (strcmp(mode, "start") == 0) {
		return mode_start(argv[2], argv[3]);
	}
	if (argc > 3) {
		library_load(&library, argv[2]);
	}
	if (strcmp(mode, "calls") == 0) {
		return mode_calls(&library, argv[3]);
	}
	if (strcmp(mode, "memory") == 0) {
		return mode_memory(&library, argv[3]);
	}
	if (strcmp(mode, "count") == 0 && argc == 6) {
		return mode_count(&library, argv[3], argv[4], argv[5]);
	}
	if (strcmp(mode, "serve") == 0) {
		return mode_serve(&library, argv[3], argc > 4 ? argv[4] : NULL);
	}
	if (strcmp(mode, "remote") == 0) {
		return mode_remote(&library, argc - 3, argv + 3);
	}
	if (strcmp(mode, "add") == 0) {
		return mode_add(&library, argc - 3, argv + 3);
	}
	if (strcmp(mode, "replicated") == 0 && argc == 5) {
		return mode_replicated(argv + 3);
	}
	if (strcmp(mode, "growth") == 0) {
		return mode_growth(&library, argv[3], argc - 4, argv + 4);
	}
	if (strcmp(mode, "connections") == 0) {
		return mode_connections(&library, argv[3], argc - 4, argv + 4);
	}
	if (strcmp(mode, "cluster") == 0) {
		return mode_cluster(&library, argv[3], argc - 4, argv + 4);
	}
	if (strcmp(mode, "values") == 0) {
		return mode_values(&library, argv[3], argc - 4, argv + 4);
	}
	if (strcmp(mode, "results") == 0) {
		return mode_results(&library, argv[3], argc - 4, argv + 4);
	}
	if (strcmp(mode, "setting") == 0) {
		return mode_setting(&library, argv[3], argc - 4, argv + 4);
	}
	fprintf(stderr, "usage: driver start|calls|memory|serve LIBRARY DIRECTORY, driver serve LIBRARY DIRECTORY LEADER,\n"
			"driver remote|add LIBRARY ADDRESS..., driver replicated LIBRARY LEADER LEADER,\n"
			"driver count LIBRARY DIRECTORY KIND CALLS, or driver growth|connections|cluster|values|results LIBRARY DIRECTORY NUMBER...,\n"
			"or driver setting LIBRARY DIRECTORY MEGABYTES [THRESHOLD TRAILING|uncompressed]\n"
			"BENCH_SECONDS: how long each kind of call is measured (0.5)\n");
	return 2;
}
