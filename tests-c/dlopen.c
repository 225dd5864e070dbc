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

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "all_functions", all_functions, 0 },
		{ "dlclose_with_a_running_node", dlclose_with_a_running_node, 0 },
		{ "dlopen_again_and_again", dlopen_again_and_again, 0 },
		{ "thread_ends_after_dlclose", thread_ends_after_dlclose, 0 },
		{ "beside_another_sqlite", beside_another_sqlite, 0 },
		{ NULL, NULL, 0 },
	};
	return check_main(argc, argv, tests);
}
