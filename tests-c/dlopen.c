/* The library as a language binding uses it: by dlopen, never linked. LIB names it. */
#include "check.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One pointer of the right type for each of the 25 functions. */
#define PROTOTYPE(name, result, parameters) static result(*use_##name) parameters;
#include "prototypes.h"
#undef PROTOTYPE

static const char *library_path(void)
{
	const char *path = getenv("LIB");
	if (!path)
		check_fail(__FILE__, __LINE__, "LIB is not set");
	return path;
}

static void *open_library(void)
{
	void *library = dlopen(library_path(), RTLD_NOW | RTLD_LOCAL);
	if (!library)
		check_fail(__FILE__, __LINE__, "dlopen: %s", dlerror());
	return library;
}

static void *symbol(void *library, const char *name)
{
	void *address = dlsym(library, name);
	if (!address)
		check_fail(__FILE__, __LINE__, "dlsym: %s", dlerror());
	return address;
}

/* Sends the calls that follow to that copy of the library. */
static void load_functions(void *library)
{
	void *address;
	/* ISO C has no conversion from an object pointer to a function pointer; POSIX promises that the bytes do. */
#define PROTOTYPE(name, result, parameters) \
	address = symbol(library, #name); \
	memcpy(&use_##name, &address, sizeof address);
#include "prototypes.h"
#undef PROTOTYPE
}

static int last_code(int code)
{
	if (code != 0) {
		char *message = use_dqlitepy_last_error();
		check_fail(__FILE__, __LINE__, "code %d: %s", code, message ? message : "(no message)");
	}
	return code;
}

static unsigned long long start_node(const char *address)
{
	unsigned long long node = 0;
	last_code(use_dqlitepy_node_create(1, address, path_in_test_dir("node"), &node));
	last_code(use_dqlitepy_node_start(node));
	last_code(use_dqlitepy_node_open_db(node, "test.db"));
	return node;
}

static void all_functions(void)
{
	const char *address = free_address();
	unsigned long long client = 0;
	int64_t id = 0, rows = 0;
	char *text = NULL;
	load_functions(open_library());
	CHECK(use_dqlitepy_version_number() > 0);
	CHECK(strlen(use_dqlitepy_version_string()) > 0);
	CHECK(use_dqlitepy_generate_node_id(address) != 0);
	unsigned long long node = start_node(address);
	last_code(use_dqlitepy_node_exec(node, "CREATE TABLE t(a); INSERT INTO t VALUES(5)", &id, &rows));
	CHECK(id == 1 && rows == 1);
	last_code(use_dqlitepy_node_query(node, "SELECT a FROM t", &text));
	CHECK_TEXT(text, "[{\"a\":5}]");
	use_dqlitepy_free(text);
	last_code(use_dqlitepy_client_create(address, &client));
	last_code(use_dqlitepy_client_leader(client, &text));
	CHECK_TEXT(text, address);
	use_dqlitepy_free(text);
	last_code(use_dqlitepy_client_close(client));
	last_code(use_dqlitepy_node_handover(node));
	last_code(use_dqlitepy_node_stop(node));
	use_dqlitepy_node_destroy(node);
}

/* dlclose while a node runs: its threads must not lose the ground under their feet. */
static void dlclose_with_a_running_node(void)
{
	const char *address = free_address();
	char *text = NULL;
	void *library = open_library();
	load_functions(library);
	unsigned long long node = start_node(address);
	CHECK(dlclose(library) == 0);
	close(tcp_connect(address)); /* it still listens */
	library = open_library();
	load_functions(library);
	last_code(use_dqlitepy_node_query(node, "SELECT 1 AS a", &text)); /* the same library with the same node */
	CHECK_TEXT(text, "[{\"a\":1}]");
	last_code(use_dqlitepy_node_stop(node));
	use_dqlitepy_node_destroy(node);
	CHECK(dlclose(library) == 0);
}

static void *load_and_close(void *unused)
{
	(void)unused;
	for (int i = 0; i < 50; i++) {
		void *library = open_library(), *address = symbol(library, "dqlitepy_version_number");
		int (*version)(void);
		memcpy(&version, &address, sizeof address);
		CHECK(version() > 0);
		CHECK(dlclose(library) == 0);
	}
	return NULL;
}

static void dlopen_again_and_again(void)
{
	pthread_t threads[4];
	for (int i = 0; i < 4; i++)
		CHECK(pthread_create(&threads[i], NULL, load_and_close, NULL) == 0);
	for (int i = 0; i < 4; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
}

/* A thread that had an error ends after dlclose: its thread-local message must still have its destructor. */
static void *fail_and_close(void *unused)
{
	unsigned long long out;
	void *library = open_library();
	(void)unused;
	load_functions(library);
	CHECK(use_dqlitepy_node_create(1, NULL, NULL, &out) == DQLITEPY_INVALID);
	CHECK(dlclose(library) == 0);
	return NULL;
}

static void thread_ends_after_dlclose(void)
{
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, fail_and_close, NULL) == 0);
	CHECK(pthread_join(thread, NULL) == 0);
}

/* Its own SQLite stays its own: a process that uses another one is not disturbed. */
static void beside_another_sqlite(void)
{
	void *sqlite = dlopen("libsqlite3.so.0", RTLD_NOW | RTLD_GLOBAL), *db = NULL, *address;
	int (*open)(const char *, void **), (*threadsafe)(void), (*exec)(void *, const char *, void *, void *, char **);
	char *text = NULL;
	if (!sqlite)
		check_skip("no libsqlite3.so.0 here: %s", dlerror());
	address = symbol(sqlite, "sqlite3_open");
	memcpy(&open, &address, sizeof address);
	address = symbol(sqlite, "sqlite3_threadsafe");
	memcpy(&threadsafe, &address, sizeof address);
	address = symbol(sqlite, "sqlite3_exec");
	memcpy(&exec, &address, sizeof address);
	CHECK(open(":memory:", &db) == 0); /* in use before ours starts */
	load_functions(open_library());
	unsigned long long node = start_node(free_address());
	CHECK(exec(db, "CREATE TABLE t(a)", NULL, NULL, NULL) == 0);
	last_code(use_dqlitepy_node_query(node, "SELECT sqlite_version() AS v", &text));
	CHECK_HAS(text, "\"v\":\"3.");
	use_dqlitepy_node_destroy(node);
	CHECK(exec(db, "INSERT INTO t VALUES(1)", NULL, NULL, NULL) == 0);
	CHECK(threadsafe() != 0);
}

/* ---- two copies of the library ---- */

static void copy_library(const char *to)
{
	char bytes[1 << 16];
	FILE *in = fopen(library_path(), "rb"), *out = fopen(to, "wb");
	CHECK(in && out);
	for (size_t n; (n = fread(bytes, 1, sizeof bytes, in)) > 0;)
		CHECK(fwrite(bytes, 1, n, out) == n);
	CHECK(fclose(out) == 0);
	fclose(in);
}

static unsigned long long create_and_start(const char *address, const char *dir)
{
	unsigned long long node = 0;
	last_code(use_dqlitepy_node_create(1, address, dir, &node));
	last_code(use_dqlitepy_node_start(node));
	last_code(use_dqlitepy_node_open_db(node, "test.db"));
	return node;
}

static void expect_code(int got, int want, const char *part)
{
	char *message = use_dqlitepy_last_error();
	CHECK_INT(got, want);
	CHECK_HAS(message, part);
	use_dqlitepy_free(message);
}

static void write_and_count(unsigned long long node, int so_many)
{
	char want[40], *text = NULL;
	last_code(use_dqlitepy_node_exec(node, "INSERT INTO t VALUES(5)", NULL, NULL));
	last_code(use_dqlitepy_node_query(node, "SELECT count(*) AS n FROM t", &text));
	snprintf(want, sizeof want, "[{\"n\":%d}]", so_many);
	CHECK_TEXT(text, want);
	use_dqlitepy_free(text);
}

/* As two packages bring them, each with its own: neither sees the other but as another process would. */
static void two_copies(void)
{
	const char *copy = path_in_test_dir("copy.so"), *dirs[2] = { path_in_test_dir("one"), path_in_test_dir("two") };
	const char *addresses[2] = { free_address(), free_address() };
	unsigned long long nodes[2], client = 0, refused = 0;
	char *text = NULL;
	copy_library(copy);
	void *libraries[2] = { open_library(), dlopen(copy, RTLD_NOW | RTLD_LOCAL) };
	CHECK(libraries[1] != NULL && libraries[1] != libraries[0]);
	for (int i = 0; i < 2; i++) {
		load_functions(libraries[i]);
		nodes[i] = create_and_start(addresses[i], dirs[i]);
		last_code(use_dqlitepy_node_exec(nodes[i], "CREATE TABLE t(a)", NULL, NULL));
	}
	for (int round = 1; round < 20; round++)
		for (int i = 0; i < 2; i++) {
			load_functions(libraries[i]);
			write_and_count(nodes[i], round);
		}
	/* The directory and the port of the other one's node are in use; its node is reached like any. */
	load_functions(libraries[0]);
	last_code(use_dqlitepy_node_create(1, addresses[1], dirs[1], &refused));
	expect_code(use_dqlitepy_node_start(refused), DQLITEPY_INTERNAL, "in use");
	use_dqlitepy_node_destroy(refused);
	last_code(use_dqlitepy_node_create(1, addresses[1], path_in_test_dir("three"), &refused));
	expect_code(use_dqlitepy_node_start(refused), DQLITEPY_INTERNAL, "in use");
	use_dqlitepy_node_destroy(refused);
	last_code(use_dqlitepy_client_create(addresses[1], &client));
	last_code(use_dqlitepy_client_leader(client, &text));
	CHECK_TEXT(text, addresses[1]);
	use_dqlitepy_free(text);
	last_code(use_dqlitepy_client_close(client));
	/* A forked child has neither. */
	pid_t pid = fork();
	if (pid == 0) {
		alarm(10);
		for (int i = 0; i < 2; i++) {
			load_functions(libraries[i]);
			expect_code(use_dqlitepy_node_exec(nodes[i], "INSERT INTO t VALUES(6)", NULL, NULL), DQLITEPY_MISUSE, "fork");
			use_dqlitepy_node_destroy(nodes[i]);
		}
		exit(0);
	}
	CHECK_INT(wait_for_exit(pid, 15), 0);
	/* What one ends the other does not notice. */
	load_functions(libraries[1]);
	use_dqlitepy_node_destroy(nodes[1]);
	CHECK(dlclose(libraries[1]) == 0);
	load_functions(libraries[0]);
	write_and_count(nodes[0], 20);
	nodes[1] = create_and_start(addresses[1], dirs[1]);
	write_and_count(nodes[1], 20);
	use_dqlitepy_node_destroy(nodes[0]);
	use_dqlitepy_node_destroy(nodes[1]);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "all_functions", all_functions, 0 },
		{ "dlclose_with_a_running_node", dlclose_with_a_running_node, 0 },
		{ "dlopen_again_and_again", dlopen_again_and_again, 0 },
		{ "thread_ends_after_dlclose", thread_ends_after_dlclose, 0 },
		{ "beside_another_sqlite", beside_another_sqlite, 0 },
		{ "two_copies", two_copies, 0 },
		{ NULL, NULL, 0 },
	};
	return check_main(argc, argv, tests);
}
