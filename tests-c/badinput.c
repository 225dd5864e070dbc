/* Input that no library should choke on: each gets a code, and a message that names what is wrong, at once; a node that
 * never started leaves no file behind. */
#include "check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define BAD_UTF8 "a\xff\xfe" "b"

/* The call gives the code, within two seconds, and the message contains the part. */
#define REFUSED(call, code, part) \
	do { \
		double start_ = now(); \
		CHECK_RC(call, code); \
		CHECK_ERROR_HAS(part); \
		CHECK_WITHIN(start_, 2.0); \
	} while (0)

static dqlitepy_handle new_node(void)
{
	dqlitepy_handle node = 0;
	CHECK_OK(dqlitepy_node_create(1, free_address(), path_in_test_dir("unused"), &node));
	return node;
}

static dqlitepy_handle client_of(const char *address)
{
	dqlitepy_handle client = 0;
	CHECK_OK(dqlitepy_client_create(address, &client));
	return client;
}

static void null_pointers_before_start(void)
{
	dqlitepy_handle out = 77;
	const char *a = "127.0.0.1:9001", *dir = test_dir();
	REFUSED(dqlitepy_node_create(1, NULL, dir, &out), DQLITEPY_INVALID, "address");
	CHECK_INT(out, 0);
	REFUSED(dqlitepy_node_create(1, a, NULL, &out), DQLITEPY_INVALID, "data_dir");
	REFUSED(dqlitepy_node_create(1, a, dir, NULL), DQLITEPY_INVALID, "NULL");
	REFUSED(dqlitepy_node_create_with_cluster(1, NULL, dir, a, &out), DQLITEPY_INVALID, "address");
	REFUSED(dqlitepy_node_create_with_cluster(1, a, NULL, a, &out), DQLITEPY_INVALID, "data_dir");
	REFUSED(dqlitepy_node_create_with_cluster(1, a, dir, NULL, &out), DQLITEPY_INVALID, "cluster");
	REFUSED(dqlitepy_node_create_with_cluster(1, a, dir, a, NULL), DQLITEPY_INVALID, "NULL");
	REFUSED(dqlitepy_node_set_bind_address(new_node(), NULL), DQLITEPY_INVALID, "address");
	REFUSED(dqlitepy_client_create(NULL, &out), DQLITEPY_INVALID, "addresses");
	CHECK_INT(out, 0);
	REFUSED(dqlitepy_client_create(a, NULL), DQLITEPY_INVALID, "NULL");
	CHECK_INT(dqlitepy_generate_node_id(NULL), 0);
	dqlitepy_free(NULL);
	CHECK_INT(count_files(dir), 0);
}

static void null_pointers_while_running(void)
{
	const char *address = free_address();
	dqlitepy_handle node = running_node(path_in_test_dir("node"), address), client = client_of(address);
	int64_t id = -77, rows = -77;
	char *json = (char *)"untouched";
	REFUSED(dqlitepy_node_open_db(node, NULL), DQLITEPY_INVALID, "name");
	REFUSED(dqlitepy_node_exec(node, NULL, &id, &rows), DQLITEPY_INVALID, "sql");
	CHECK(id == 0 && rows == 0);
	REFUSED(dqlitepy_node_query(node, NULL, &json), DQLITEPY_INVALID, "sql");
	CHECK(json == NULL);
	REFUSED(dqlitepy_node_query(node, "SELECT 1", NULL), DQLITEPY_INVALID, "NULL");
	/* The numbers are of no interest to everybody. */
	CHECK_OK(dqlitepy_node_exec(node, "CREATE TABLE t(a)", NULL, NULL));
	CHECK_OK(dqlitepy_node_exec(node, "INSERT INTO t VALUES(1)", &id, NULL));
	CHECK_OK(dqlitepy_node_exec(node, "INSERT INTO t VALUES(2)", NULL, &rows));
	CHECK(id == 1 && rows == 1);
	REFUSED(dqlitepy_client_leader(client, NULL), DQLITEPY_INVALID, "NULL");
	REFUSED(dqlitepy_client_cluster(client, NULL), DQLITEPY_INVALID, "NULL");
	REFUSED(dqlitepy_client_add(client, 2, NULL), DQLITEPY_INVALID, "address");
	CHECK_JSON(node, "SELECT count(*) AS n FROM t", "[{\"n\":2}]");
	dqlitepy_node_destroy(node);
}

enum { FITS = -1, EITHER = -2 };

static void handle_refused(int rc, int want, dqlitepy_handle h)
{
	char number[30];
	snprintf(number, sizeof number, "%llu", h);
	if (want == EITHER)
		CHECK(rc == DQLITEPY_NOTFOUND || rc == DQLITEPY_INVALID);
	else
		CHECK_INT(rc, want);
	CHECK_ERROR_HAS(number);
}

/* Every function with this handle, which gives this code as a node and that one as a client. */
static void check_handle(dqlitepy_handle h, int as_node, int as_client)
{
	int64_t id = -77, rows = -77;
	char *text = (char *)"untouched", *other = text;
	double start = now();
	if (as_node != FITS) {
		handle_refused(dqlitepy_node_set_bind_address(h, "127.0.0.1:9001"), as_node, h);
		handle_refused(dqlitepy_node_set_auto_recovery(h, 1), as_node, h);
		handle_refused(dqlitepy_node_set_busy_timeout(h, 1), as_node, h);
		handle_refused(dqlitepy_node_set_snapshot_compression(h, 1), as_node, h);
		handle_refused(dqlitepy_node_set_network_latency_ms(h, 1), as_node, h);
		handle_refused(dqlitepy_node_set_timeout(h, 1), as_node, h);
		handle_refused(dqlitepy_node_set_voters(h, 1), as_node, h);
		handle_refused(dqlitepy_node_set_standbys(h, 1), as_node, h);
		handle_refused(dqlitepy_node_set_failure_domain(h, 1), as_node, h);
		handle_refused(dqlitepy_node_set_weight(h, 1), as_node, h);
		handle_refused(dqlitepy_node_set_snapshot_params(h, 10, 10, 0), as_node, h);
		handle_refused(dqlitepy_node_set_block_size(h, 4096), as_node, h);
		handle_refused(dqlitepy_node_set_bootstrap(h, DQLITEPY_BOOTSTRAP_NEVER), as_node, h);
		handle_refused(dqlitepy_node_start(h), as_node, h);
		handle_refused(dqlitepy_node_handover(h), as_node, h);
		handle_refused(dqlitepy_node_stop(h), as_node, h);
		handle_refused(dqlitepy_node_open_db(h, "test.db"), as_node, h);
		handle_refused(dqlitepy_node_exec(h, "SELECT 1", &id, &rows), as_node, h);
		handle_refused(dqlitepy_node_query(h, "SELECT 1", &text), as_node, h);
		CHECK(id == 0 && rows == 0 && text == NULL);
		dqlitepy_node_destroy(h); /* no crash, no effect */
	}
	if (as_client != FITS) {
		handle_refused(dqlitepy_client_leader(h, &other), as_client, h);
		CHECK(other == NULL);
		handle_refused(dqlitepy_client_cluster(h, &other), as_client, h);
		handle_refused(dqlitepy_client_add(h, 2, "127.0.0.1:9001"), as_client, h);
		handle_refused(dqlitepy_client_remove(h, 2), as_client, h);
		handle_refused(dqlitepy_client_set_timeout(h, 1), as_client, h);
		handle_refused(dqlitepy_client_close(h), as_client, h);
	}
	CHECK_WITHIN(start, 2.0);
}

static void handles(void)
{
	const char *address = free_address();
	dqlitepy_handle node = running_node(path_in_test_dir("node"), address), client = client_of(address);
	dqlitepy_handle stale = new_node(), closed = client_of(address);
	dqlitepy_node_destroy(stale);
	dqlitepy_node_destroy(stale);
	CHECK_OK(dqlitepy_client_close(closed));
	check_handle(0, DQLITEPY_NOTFOUND, DQLITEPY_NOTFOUND);
	check_handle(99, DQLITEPY_NOTFOUND, DQLITEPY_NOTFOUND);
	check_handle(stale, DQLITEPY_NOTFOUND, EITHER);
	check_handle(closed, EITHER, DQLITEPY_NOTFOUND);
	check_handle(node, FITS, DQLITEPY_INVALID);
	check_handle(client, DQLITEPY_INVALID, FITS);
	for (int bit = 0; bit < 64; bit++) { /* each bit of it counts */
		check_handle(1ull << bit, EITHER, EITHER);
		if ((node ^ (1ull << bit)) != client)
			check_handle(node ^ (1ull << bit), EITHER, EITHER);
	}
	check_handle(~0ull, EITHER, EITHER);
	CHECK_EXEC(node, "CREATE TABLE t(a)"); /* both are as good as before */
	char *leader = NULL;
	CHECK_OK(dqlitepy_client_leader(client, &leader));
	dqlitepy_node_destroy(node);
}

static void invalid_utf8(void)
{
	dqlitepy_handle out = 77;
	const char *a = "127.0.0.1:9001", *address = free_address(), *dir = path_in_test_dir("none");
	REFUSED(dqlitepy_node_create(1, BAD_UTF8, dir, &out), DQLITEPY_INVALID, "UTF-8");
	CHECK_ERROR_HAS("address");
	REFUSED(dqlitepy_node_create(1, a, path_in_test_dir(BAD_UTF8), &out), DQLITEPY_INVALID, "UTF-8");
	CHECK_ERROR_HAS("data_dir");
	REFUSED(dqlitepy_node_create_with_cluster(1, a, dir, BAD_UTF8, &out), DQLITEPY_INVALID, "UTF-8");
	CHECK_ERROR_HAS("cluster");
	REFUSED(dqlitepy_client_create(BAD_UTF8, &out), DQLITEPY_INVALID, "UTF-8");
	REFUSED(dqlitepy_node_set_bind_address(new_node(), BAD_UTF8), DQLITEPY_INVALID, "UTF-8");
	CHECK_INT(dqlitepy_generate_node_id(BAD_UTF8), 0);
	CHECK_INT(count_files(test_dir()), 0);
	dqlitepy_handle node = running_node(path_in_test_dir("node"), address), client = client_of(address);
	REFUSED(dqlitepy_node_open_db(node, BAD_UTF8), DQLITEPY_INVALID, "UTF-8");
	REFUSED(dqlitepy_client_add(client, 2, BAD_UTF8), DQLITEPY_INVALID, "UTF-8");
	/* Cut sequences, surrogates, overlong forms: none of them is UTF-8. */
	const char *bad[] = { "SELECT '\xff'", "SELECT '\xc3", "SELECT '\xed\xa0\x80'", "SELECT '\xc0\x80'",
			      "SELECT '\xf5\x80\x80\x80'", "SELECT '\x80'" };
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		CHECK_EXEC_FAILS(node, bad[i], DQLITEPY_INVALID, "UTF-8");
		CHECK_QUERY_FAILS(node, bad[i], DQLITEPY_INVALID, "UTF-8");
	}
	CHECK_JSON(node, "SELECT '\xf0\x9f\x98\x80' AS s", "[{\"s\":\"\xf0\x9f\x98\x80\"}]");
	dqlitepy_node_destroy(node);
}

/* create, or if that accepts it start, refuses: the code, at once, and the directory holds no file. */
static void node_is_refused(const char *address, const char *dir, int code, const char *part)
{
	double start = now();
	int files = count_files(dir);
	dqlitepy_handle node = 0;
	int rc = dqlitepy_node_create(1, address, dir, &node);
	if (rc == 0)
		rc = dqlitepy_node_start(node);
	if (rc != code)
		check_fail(__FILE__, __LINE__, "address '%s', directory '%s': code %d, not %d; last error: %s", address, dir, rc,
			   code, last_error_text());
	CHECK_ERROR_HAS(part);
	CHECK_WITHIN(start, 2.0);
	dqlitepy_node_destroy(node);
	CHECK_INT(count_files(dir), files);
}

static void addresses(void)
{
	const char *dir = path_in_test_dir("node");
	static const char *const bad[] = {
		"", " ", ":", "127.0.0.1", "127.0.0.1:", ":9001", "127.0.0.1:99999", "127.0.0.1:65536",
		"127.0.0.1:-1", "127.0.0.1:+9001", "127.0.0.1:9001x", "127.0.0.1: 9001",
		"127.0.0.1:90 01", "256.0.0.1:9001", "1.2.3:9001", "127.0.0.1:18446744073709551617", "[::1:9001", "::1]:9001",
		"[::1]", "[::1]:", "[]:9001", "[::g]:9001", "127.0.0.1:9001,127.0.0.1:9002", "-:9001", "a b:9001",
		"/tmp/socket", "127.0.0.1:0x2329", "127.0.0.1:9001:9002", "\x01:9001",
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		node_is_refused(bad[i], dir, DQLITEPY_INVALID, "address");
	char *huge = malloc(1 << 20);
	CHECK(huge != NULL);
	memset(huge, '1', (1 << 20) - 1);
	huge[(1 << 20) - 1] = 0;
	node_is_refused(huge, dir, DQLITEPY_INVALID, "address");
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) { /* the same in the other places */
		dqlitepy_handle out = 77;
		if (strchr(bad[i], ',') == NULL) {
			REFUSED(dqlitepy_client_create(bad[i], &out), DQLITEPY_INVALID, "address");
			CHECK_INT(out, 0);
		}
		REFUSED(dqlitepy_node_set_bind_address(new_node(), bad[i]), DQLITEPY_INVALID, "address");
	}
	CHECK_INT(count_files(test_dir()), 0);
}

/* A name that is an address works, or is refused clearly; one that is none is refused, also without a network. */
static void host_names(void)
{
	char address[60];
	dqlitepy_handle node = 0;
	node_is_refused("no-such-host.invalid:9001", path_in_test_dir("a"), DQLITEPY_INVALID, "no-such-host.invalid");
	/* "localhost" stands for 127.0.0.1 here, where the ports of other tests are; the kernel knows a free one. */
	struct sockaddr_in free_place = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof free_place;
	int probe = socket(AF_INET, SOCK_STREAM, 0);
	CHECK_INT(bind(probe, (struct sockaddr *)&free_place, length), 0);
	CHECK_INT(getsockname(probe, (struct sockaddr *)&free_place, &length), 0);
	close(probe);
	snprintf(address, sizeof address, "localhost:%d", ntohs(free_place.sin_port));
	double start = now();
	int rc = dqlitepy_node_create(1, address, path_in_test_dir("b"), &node);
	if (rc == 0)
		rc = dqlitepy_node_start(node);
	CHECK_WITHIN(start, 2.0);
	if (rc == 0) {
		CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
		CHECK_EXEC(node, "CREATE TABLE t(a)");
	} else {
		CHECK_INT(rc, DQLITEPY_INVALID);
		CHECK_ERROR_HAS("localhost");
		CHECK_INT(count_files(path_in_test_dir("b")), 0);
	}
	dqlitepy_node_destroy(node);
}

static void cluster_lists(void)
{
	const char *address = free_address(), *dir = path_in_test_dir("node");
	dqlitepy_handle out = 77;
	static const char *const bad[] = { "127.0.0.1", "nonsense", "127.0.0.1:9001,nonsense", "127.0.0.1:99999" };
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		int rc = dqlitepy_node_create_with_cluster(1, address, dir, bad[i], &out);
		if (rc == 0)
			rc = dqlitepy_node_start(out);
		if (rc != DQLITEPY_INVALID)
			check_fail(__FILE__, __LINE__, "list '%s' gave %d: %s", bad[i], rc, last_error_text());
		CHECK_ERROR_HAS("list");
	}
	CHECK_INT(count_files(dir), 0);
	CHECK_RC(dqlitepy_client_create("", &out), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_client_create(",", &out), DQLITEPY_INVALID);
}

static void node_ids(void)
{
	dqlitepy_handle out = 77;
	REFUSED(dqlitepy_node_create(0, free_address(), path_in_test_dir("node"), &out), DQLITEPY_INVALID, "id");
	CHECK_INT(out, 0);
	CHECK_INT(count_files(test_dir()), 0);
}

static void write_file(const char *path)
{
	FILE *f = fopen(path, "w");
	CHECK(f != NULL);
	fputs("not a directory", f);
	fclose(f);
}

static void directories(void)
{
	const char *file = path_in_test_dir("file"), *missing = path_in_test_dir("missing");
	struct stat st;
	write_file(file);
	node_is_refused(free_address(), "", DQLITEPY_INVALID, "data_dir");
	node_is_refused(free_address(), file, DQLITEPY_INVALID, file);
	node_is_refused(free_address(), path_in_test_dir("file/below"), DQLITEPY_INVALID, file);
	node_is_refused(free_address(), "/proc/dqlitepy/node", DQLITEPY_INVALID, "/proc/dqlitepy");
	char *huge = malloc(20000);
	CHECK(huge != NULL);
	memset(huge, 'x', 19999);
	huge[0] = '/';
	huge[19999] = 0;
	node_is_refused(free_address(), huge, DQLITEPY_INVALID, "data_dir");
	/* A missing one is made, for the owner only, whatever the umask. */
	umask(0);
	dqlitepy_handle node = running_node(missing, free_address());
	CHECK(stat(missing, &st) == 0);
	CHECK_INT(st.st_mode & 07777, 0700);
	dqlitepy_node_destroy(node);
}

static void directory_unwritable(void)
{
	const char *dir = path_in_test_dir("locked");
	CHECK(mkdir(dir, 0500) == 0);
	if (geteuid() == 0) {
		/* Root may write anywhere: go on as nobody, who may look into this directory only. */
		CHECK(chmod(test_dir(), 0755) == 0 && chmod(dir, 0555) == 0);
		if (setgid(65534) != 0 || setuid(65534) != 0)
			check_skip("this user can neither be refused nor become somebody else: %s", strerror(errno));
		if (access(dir, R_OK) != 0)
			check_skip("nobody cannot reach %s: %s", dir, strerror(errno));
	}
	node_is_refused(free_address(), dir, DQLITEPY_INVALID, dir);
	node_is_refused(free_address(), path_in_test_dir("locked/below"), DQLITEPY_INVALID, dir);
}

/* The helper: a node that runs until its stdin ends. */
static int hold(const char *dir, const char *address)
{
	char byte;
	running_node(dir, address);
	puts("ready");
	fflush(stdout);
	return read(0, &byte, 1) == 0 ? 0 : 1;
}

/* The node is refused although another process could be disturbed by the attempt; the message has both parts. */
static void in_use(dqlitepy_handle node, int code, const char *part, const char *other_part)
{
	double start = now();
	CHECK_RC(dqlitepy_node_start(node), code);
	CHECK_ERROR_HAS(part);
	CHECK_ERROR_HAS(other_part);
	CHECK_WITHIN(start, 2.0);
	dqlitepy_node_destroy(node);
}

static void directory_in_use(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	struct helper holder = start_helper((const char *const[]){ dir, address, NULL });
	CHECK_TEXT(helper_line(&holder, 10), "ready");
	dqlitepy_handle node = 0;
	CHECK_OK(dqlitepy_node_create(1, address, dir, &node)); /* as it is: the port is found first */
	in_use(node, DQLITEPY_INTERNAL, "in use", address);
	CHECK_OK(dqlitepy_node_create(1, free_address(), dir, &node)); /* another address: not this directory's */
	in_use(node, DQLITEPY_INVALID, dir, address);
	CHECK_OK(dqlitepy_node_create(1, address, dir, &node)); /* listening elsewhere: the lock stands in the way */
	CHECK_OK(dqlitepy_node_set_bind_address(node, free_address()));
	in_use(node, DQLITEPY_INTERNAL, "in use", dir);
	close(holder.in);
	CHECK_INT(wait_for_exit(holder.pid, 10), 0); /* the other process was not disturbed */
	node = running_node(dir, address);           /* and now it is free */
	dqlitepy_node_destroy(node);
}

static void port_in_use(void)
{
	const char *address = free_address(), *dir = path_in_test_dir("node");
	int listener = tcp_listen(address);
	node_is_refused(address, dir, DQLITEPY_INTERNAL, "in use");
	CHECK_ERROR_HAS(address);
	/* Also when it is another node of this process. */
	const char *other = free_address();
	dqlitepy_handle node = running_node(path_in_test_dir("other"), other);
	node_is_refused(other, dir, DQLITEPY_INTERNAL, "in use");
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	close(listener);
	dqlitepy_node_destroy(node);
	dqlitepy_node_destroy(running_node(dir, address)); /* it was only the port */
}

static void address_not_ours(void)
{
	/* 192.0.2.0/24 is reserved for documentation: no machine has it. */
	node_is_refused("192.0.2.1:9001", path_in_test_dir("node"), DQLITEPY_INVALID, "192.0.2.1:9001");
}

static void database_names(void)
{
	dqlitepy_handle node = running_node(path_in_test_dir("node"), free_address());
	static char long_name[202], huge[70000];
	memset(long_name, 'x', 201);
	memset(huge, 'y', sizeof huge - 1);
	const char *bad[] = { "", "a/b.db", "/", "..//x", ":memory:", "a:b", "file:x?mode=memory", "a?b", "?", long_name, huge };
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		REFUSED(dqlitepy_node_open_db(node, bad[i]), DQLITEPY_INVALID, "name");
	CHECK_JSON(node, "SELECT name FROM sqlite_master", "[{\"name\":\"t\"}]"); /* still on test.db */
	dqlitepy_node_destroy(node);
}

static void sql_errors(void)
{
	dqlitepy_handle node = running_node(path_in_test_dir("node"), free_address());
	CHECK_EXEC(node, "CREATE TABLE t(a UNIQUE, b NOT NULL, c CHECK(c < 10)); INSERT INTO t VALUES(1, 1, 1)");
	CHECK_EXEC_FAILS(node, "NONSENSE", 1001, "syntax error");
	CHECK_QUERY_FAILS(node, "NONSENSE", 1001, "syntax error");
	CHECK_EXEC_FAILS(node, "INSERT INTO missing VALUES(1)", 1001, "no such table: missing");
	CHECK_QUERY_FAILS(node, "SELECT * FROM missing", 1001, "no such table: missing");
	CHECK_EXEC_FAILS(node, "INSERT INTO t VALUES(1, 1, 1)", 1019, "UNIQUE constraint failed: t.a");
	CHECK_QUERY_FAILS(node, "INSERT INTO t VALUES(1, 1, 1) RETURNING a", 1019, "UNIQUE constraint failed: t.a");
	CHECK_EXEC_FAILS(node, "INSERT INTO t VALUES(2, NULL, 1)", 1019, "NOT NULL constraint failed: t.b");
	CHECK_EXEC_FAILS(node, "INSERT INTO t VALUES(2, 2, 10)", 1019, "CHECK constraint failed");
	CHECK_QUERY_FAILS(node, "SELECT 1; SELECT 2", 1001, "one statement");
	CHECK_QUERY_FAILS(node, "SELECT abs(-9223372036854775808) AS thecolumn", 1001, "integer overflow");
	CHECK_EXEC_FAILS(node, "SELECT abs(-9223372036854775808)", 1001, "integer overflow");
	CHECK_EXEC_FAILS(node, "COMMIT", 1001, "no transaction");
	CHECK_EXEC_FAILS(node, "ATTACH 'x.db' AS x", 1023, "not authorized");
	CHECK_EXEC_FAILS(node, "PRAGMA journal_mode = DELETE", 1023, "not authorized");
	CHECK_EXEC_FAILS(node, "SELECT 'unfinished", 1001, "unrecognized token");
	/* An error in the middle: the message, and what came before stays. */
	CHECK_EXEC_FAILS(node, "INSERT INTO t VALUES(5, 5, 5); INSERT INTO t VALUES(5, 5, 5); INSERT INTO t VALUES(6, 6, 6)",
			 1019, "UNIQUE constraint failed: t.a");
	CHECK_JSON(node, "SELECT a FROM t ORDER BY a", "[{\"a\":1},{\"a\":5}]");
	dqlitepy_node_destroy(node);
}

/* A failure at every depth and length of text: no crash, and the node works afterwards. */
static void strange_sql(void)
{
	dqlitepy_handle node = running_node(path_in_test_dir("node"), free_address());
	static char deep[40010];
	memset(deep, '(', 40000);
	static char wide[300000];
	memset(wide, '?', sizeof wide - 1);
	const char *texts[] = { "(", ")", ";;;;", "'", "\"", "[", "`", "/*", "--", "/* */ -- ", "\\", "\x01\x02", "SELECT", "BEGIN;",
				"WITH", "EXPLAIN", "PRAGMA", "CREATE TRIGGER", "SELECT ?", "SELECT :a, @b, $c", deep, wide };
	int64_t id, rows;
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
		char *json = NULL;
		dqlitepy_node_exec(node, texts[i], &id, &rows);
		if (dqlitepy_node_query(node, texts[i], &json) == 0)
			CHECK(json != NULL);
		dqlitepy_free(json);
	}
	dqlitepy_node_exec(node, "ROLLBACK", &id, &rows);
	CHECK_JSON(node, "SELECT 1 AS a", "[{\"a\":1}]");
	dqlitepy_node_destroy(node);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "null_pointers_before_start", null_pointers_before_start, 0 },
		{ "null_pointers_while_running", null_pointers_while_running, 0 },
		{ "handles", handles, 0 },
		{ "invalid_utf8", invalid_utf8, 0 },
		{ "addresses", addresses, 0 },
		{ "host_names", host_names, 0 },
		{ "cluster_lists", cluster_lists, 0 },
		{ "node_ids", node_ids, 0 },
		{ "directories", directories, 0 },
		{ "directory_unwritable", directory_unwritable, 0 },
		{ "directory_in_use", directory_in_use, 0 },
		{ "port_in_use", port_in_use, 0 },
		{ "address_not_ours", address_not_ours, 0 },
		{ "database_names", database_names, 0 },
		{ "sql_errors", sql_errors, 0 },
		{ "strange_sql", strange_sql, 0 },
		{ NULL, NULL, 0 },
	};
	if (argc == 4 && strcmp(argv[1], "--helper") == 0)
		return hold(argv[2], argv[3]);
	return check_main(argc, argv, tests);
}
