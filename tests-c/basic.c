/* The life of a node and the main job, as a C program does them. */
#include "check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* The text of a file that only its owner may read. */
static const char *contents(const char *dir, const char *name)
{
	static char text[2000];
	char path[4000];
	struct stat st;
	snprintf(path, sizeof path, "%s/%s", dir, name);
	FILE *f = fopen(path, "r");
	if (!f)
		check_fail(__FILE__, __LINE__, "%s is missing", path);
	text[fread(text, 1, sizeof text - 1, f)] = 0;
	fclose(f);
	CHECK(stat(path, &st) == 0);
	CHECK_INT(st.st_mode & 0777, 0600);
	return text;
}

static void lifecycle(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	dqlitepy_handle node = running_node(dir, address);
	CHECK_EXEC_NUMBERS(node, "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT)", 0, 0);
	CHECK_EXEC_NUMBERS(node, "INSERT INTO t(name) VALUES('one'), ('two')", 2, 2);
	CHECK_JSON(node, "SELECT id, name FROM t ORDER BY id", "[{\"id\":1,\"name\":\"one\"},{\"id\":2,\"name\":\"two\"}]");
	CHECK_OK(dqlitepy_node_handover(node)); /* nobody to hand over to: fine */
	CHECK_OK(dqlitepy_node_stop(node));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_JSON(node, "SELECT count(*) AS n FROM t", "[{\"n\":2}]");
	CHECK_EXEC_NUMBERS(node, "INSERT INTO t(name) VALUES('three')", 3, 1);
	CHECK_OK(dqlitepy_node_stop(node));
	dqlitepy_node_destroy(node);

	node = running_node(dir, address); /* and a new object on the same directory */
	CHECK_JSON(node, "SELECT name FROM t WHERE id = 3", "[{\"name\":\"three\"}]");
	CHECK_OK(dqlitepy_node_stop(node));
	dqlitepy_node_destroy(node);
}

static void start_is_quick(void)
{
	double start = now();
	dqlitepy_handle node = running_node(path_in_test_dir("node"), free_address());
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	CHECK_WITHIN(start, 2.0);
	start = now();
	CHECK_OK(dqlitepy_node_stop(node));
	CHECK_WITHIN(start, 2.0);
	dqlitepy_node_destroy(node);
}

static void destroy_while_running(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	dqlitepy_handle node = running_node(dir, address);
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	dqlitepy_node_destroy(node);
	CHECK_RC(dqlitepy_node_stop(node), DQLITEPY_NOTFOUND);
	node = running_node(dir, address); /* it is stopped: port and directory are free */
	CHECK_JSON(node, "SELECT name FROM sqlite_master", "[{\"name\":\"t\"}]");
	dqlitepy_node_destroy(node);
}

static void many_starts(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	for (int i = 0; i < 10; i++) {
		char want[40];
		dqlitepy_handle node = running_node(dir, address);
		CHECK_EXEC(node, "CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES(1)");
		snprintf(want, sizeof want, "[{\"n\":%d}]", i + 1);
		CHECK_JSON(node, "SELECT count(*) AS n FROM t", want);
		if (i % 2)
			CHECK_OK(dqlitepy_node_stop(node));
		dqlitepy_node_destroy(node);
	}
}

static void wrong_state(void)
{
	dqlitepy_handle node = 0;
	CHECK_OK(dqlitepy_node_create(1, free_address(), path_in_test_dir("node"), &node));
	CHECK_RC(dqlitepy_node_stop(node), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_node_handover(node), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_node_open_db(node, "test.db"), DQLITEPY_MISUSE);
	CHECK_EXEC_FAILS(node, "SELECT 1", DQLITEPY_MISUSE, "not running");
	CHECK_QUERY_FAILS(node, "SELECT 1", DQLITEPY_MISUSE, "not running");
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_RC(dqlitepy_node_start(node), DQLITEPY_MISUSE);
	CHECK_ERROR_HAS("running");
	CHECK_EXEC_FAILS(node, "SELECT 1", DQLITEPY_MISUSE, "open_db");
	CHECK_QUERY_FAILS(node, "SELECT 1", DQLITEPY_MISUSE, "open_db");
	/* Options are for a node that does not run. */
	CHECK_RC(dqlitepy_node_set_bind_address(node, free_address()), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_node_set_auto_recovery(node, 0), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_node_set_snapshot_compression(node, 0), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_node_set_network_latency_ms(node, 10), DQLITEPY_MISUSE);
	CHECK_OK(dqlitepy_node_stop(node));
	CHECK_RC(dqlitepy_node_stop(node), DQLITEPY_STOPPED);
	CHECK_RC(dqlitepy_node_handover(node), DQLITEPY_STOPPED);
	CHECK_RC(dqlitepy_node_open_db(node, "test.db"), DQLITEPY_STOPPED);
	CHECK_EXEC_FAILS(node, "SELECT 1", DQLITEPY_STOPPED, "stopped");
	CHECK_QUERY_FAILS(node, "SELECT 1", DQLITEPY_STOPPED, "stopped");
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db")); /* again: fine */
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	dqlitepy_node_destroy(node);
}

static void options(void)
{
	dqlitepy_handle node = 0;
	CHECK_OK(dqlitepy_node_create(5, free_address(), path_in_test_dir("node"), &node));
	CHECK_OK(dqlitepy_node_set_auto_recovery(node, 0));
	CHECK_OK(dqlitepy_node_set_busy_timeout(node, 250));
	CHECK_OK(dqlitepy_node_set_snapshot_compression(node, 1));
	CHECK_OK(dqlitepy_node_set_network_latency_ms(node, 20));
	/* What the engine cannot use is refused at once, and names the value. */
	CHECK_RC(dqlitepy_node_set_network_latency_ms(node, 0), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_node_set_network_latency_ms(node, 3600001), DQLITEPY_INVALID);
	CHECK_ERROR_HAS("3600001");
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	dqlitepy_node_destroy(node);
}

static void bind_address(void)
{
	const char *address = free_address(), *bind_to = free_address();
	dqlitepy_handle node = 0;
	CHECK_OK(dqlitepy_node_create(1, address, path_in_test_dir("node"), &node));
	CHECK_OK(dqlitepy_node_set_bind_address(node, bind_to));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	close(tcp_connect(bind_to)); /* somebody listens there, */
	close(tcp_listen(address));  /* and nobody at the address that others are told */
	dqlitepy_node_destroy(node);
}

/* Port 0: the kernel chooses, and the directory remembers. */
static void port_zero(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	char any[40], real[2][60];
	snprintf(any, sizeof any, "%.*s:0", (int)(strchr(address, ':') - address), address);
	for (int i = 0; i < 2; i++) {
		dqlitepy_handle node = running_node(dir, any);
		CHECK(sscanf(contents(dir, "info.yaml"), "ID: 1\nAddress: %59s", real[i]) == 1);
		CHECK(strstr(real[i], ":0") == NULL);
		close(tcp_connect(real[i]));
		CHECK_EXEC(node, "CREATE TABLE IF NOT EXISTS t(a)");
		CHECK_OK(dqlitepy_node_stop(node));
		dqlitepy_node_destroy(node);
	}
	CHECK_TEXT(real[1], real[0]);
}

static void ipv6(void)
{
	dqlitepy_handle node = 0;
	char address[40];
	struct sockaddr_in6 in = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), port = 20000 + (int)(getpid() % 10000);
	in.sin6_port = htons((uint16_t)port);
	if (fd < 0 || bind(fd, (struct sockaddr *)&in, sizeof in) != 0)
		check_skip("[::1]:%d cannot be bound here: %s", port, strerror(errno));
	close(fd);
	snprintf(address, sizeof address, "[::1]:%d", port);
	CHECK_OK(dqlitepy_node_create(1, address, path_in_test_dir("node"), &node));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	dqlitepy_node_destroy(node);
}

static void several_databases(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	char longest[201];
	dqlitepy_handle node = running_node(dir, address);
	const char *names[] = { "a.db", "b.db", "Gr\xc3\xb6\xc3\x9f" "e 1.db", longest };
	memset(longest, 'x', 200);
	longest[200] = 0;
	for (int i = 0; i < 4; i++) {
		char sql[80];
		CHECK_OK(dqlitepy_node_open_db(node, names[i]));
		snprintf(sql, sizeof sql, "CREATE TABLE t(a); INSERT INTO t VALUES(%d)", i);
		CHECK_EXEC(node, sql); /* a table t in each: they are apart */
	}
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < 4; i++) {
			char want[40];
			snprintf(want, sizeof want, "[{\"a\":%d}]", i);
			CHECK_OK(dqlitepy_node_open_db(node, names[i])); /* the last one opened counts */
			CHECK_JSON(node, "SELECT a FROM t", want);
		}
		if (round == 0) { /* and once more after a restart */
			CHECK_OK(dqlitepy_node_stop(node));
			CHECK_OK(dqlitepy_node_start(node));
		}
	}
	dqlitepy_node_destroy(node);
}

static void two_nodes_in_one_process(void)
{
	dqlitepy_handle a = running_node(path_in_test_dir("a"), free_address());
	dqlitepy_handle b = running_node(path_in_test_dir("b"), free_address());
	CHECK(a != b);
	CHECK_EXEC(a, "CREATE TABLE t(x); INSERT INTO t VALUES('in a')");
	CHECK_EXEC(b, "CREATE TABLE t(x); INSERT INTO t VALUES('in b')");
	CHECK_JSON(a, "SELECT x FROM t", "[{\"x\":\"in a\"}]");
	CHECK_OK(dqlitepy_node_stop(a));
	CHECK_JSON(b, "SELECT x FROM t", "[{\"x\":\"in b\"}]");
	dqlitepy_node_destroy(b);
	dqlitepy_node_destroy(a);
}

/* The second create on a directory that runs in this process attaches to it: dqlitepy forgets running nodes. */
static void attach_again(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	dqlitepy_handle first = running_node(dir, address), second = 0;
	CHECK_EXEC(first, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
	CHECK_OK(dqlitepy_node_create(1, address, dir, &second));
	CHECK(second != 0);
	CHECK_OK(dqlitepy_node_start(second));
	CHECK_OK(dqlitepy_node_open_db(second, "test.db"));
	CHECK_EXEC(second, "INSERT INTO t VALUES(2)");
	CHECK_JSON(second, "SELECT a FROM t ORDER BY a", "[{\"a\":1},{\"a\":2}]");
	dqlitepy_handle third = 0;
	const char *elsewhere = free_address(); /* the same directory under another address is an error */
	int rc = dqlitepy_node_create(1, elsewhere, dir, &third);
	if (rc == 0)
		rc = dqlitepy_node_start(third);
	CHECK(rc != 0);
	CHECK_ERROR_HAS(dir);
	dqlitepy_node_destroy(second);
}

static void *fail_in_thread(void *want)
{
	char *none = dqlitepy_last_error();
	CHECK(none == NULL); /* nothing failed in this thread yet */
	CHECK_RC(dqlitepy_node_start(424242), DQLITEPY_NOTFOUND);
	CHECK_ERROR_HAS("424242");
	(void)want;
	return NULL;
}

static void last_error(void)
{
	pthread_t thread;
	CHECK(dqlitepy_last_error() == NULL);
	CHECK_RC(dqlitepy_node_start(99), DQLITEPY_NOTFOUND);
	char *one = dqlitepy_last_error(), *two = dqlitepy_last_error(); /* as dqlitepy reads it */
	CHECK(one && two && one != two);
	dqlitepy_free(one);
	CHECK_HAS(two, "99");
	dqlitepy_free(two);
	CHECK(pthread_create(&thread, NULL, fail_in_thread, NULL) == 0);
	CHECK(pthread_join(thread, NULL) == 0);
	CHECK_ERROR_HAS("99"); /* still ours, not the other thread's */
	CHECK_HAS(last_error_text(), "99");
	free(dqlitepy_last_error()); /* malloc's memory: free is as good as dqlitepy_free */
	dqlitepy_free(NULL);
}

static void outputs_are_zero_on_failure(void)
{
	dqlitepy_handle node = 77, client = 77;
	static char untouched[] = "untouched";
	char *text = untouched;
	CHECK_RC(dqlitepy_node_create(1, "nonsense", test_dir(), &node), DQLITEPY_INVALID);
	CHECK_INT(node, 0);
	CHECK_RC(dqlitepy_client_create("", &client), DQLITEPY_INVALID);
	CHECK_INT(client, 0);
	CHECK_EXEC_FAILS(99, "SELECT 1", DQLITEPY_NOTFOUND, "99");
	CHECK_QUERY_FAILS(99, "SELECT 1", DQLITEPY_NOTFOUND, "99");
	CHECK_RC(dqlitepy_client_leader(99, &text), DQLITEPY_NOTFOUND);
	CHECK(text == NULL);
	text = untouched;
	CHECK_RC(dqlitepy_client_cluster(99, &text), DQLITEPY_NOTFOUND);
	CHECK(text == NULL);
}

static void handles_are_never_used_again(void)
{
	enum { N = 200 };
	static dqlitepy_handle seen[N];
	for (int i = 0; i < N; i++) {
		CHECK_OK(dqlitepy_node_create(1, "127.0.0.1:9001", test_dir(), &seen[i]));
		CHECK(seen[i] != 0);
		for (int k = 0; k < i; k++)
			CHECK(seen[k] != seen[i]);
		dqlitepy_node_destroy(seen[i]);
		CHECK_RC(dqlitepy_node_start(seen[i]), DQLITEPY_NOTFOUND);
	}
	CHECK_INT(count_files(test_dir()), 0); /* a node that never started leaves nothing */
}

/* go-dqlite's two files, in its format. */
static void identity_files(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	char want[200], line[100];
	dqlitepy_handle node = 0;
	struct stat st;
	CHECK_OK(dqlitepy_node_create(18446744073709551615ull, address, dir, &node));
	CHECK_OK(dqlitepy_node_start(node));
	snprintf(want, sizeof want, "ID: 18446744073709551615\nAddress: %s\nRole: 0\n", address);
	CHECK_TEXT(contents(dir, "info.yaml"), want);
	snprintf(line, sizeof line, "ID: 18446744073709551615\n  Address: %s\n  Role: 0\n", address);
	snprintf(want, sizeof want, "- %s", line);
	CHECK_TEXT(contents(dir, "cluster.yaml"), want);
	CHECK(stat(dir, &st) == 0);
	CHECK_INT(st.st_mode & 0777, 0700);
	CHECK_OK(dqlitepy_node_stop(node));
	dqlitepy_node_destroy(node);
	CHECK_TEXT(contents(dir, "cluster.yaml"), want);
}

static int create_and_start(dqlitepy_node_id id, const char *address, const char *dir, dqlitepy_handle *node)
{
	int rc = dqlitepy_node_create(id, address, dir, node);
	return rc ? rc : dqlitepy_node_start(*node);
}

/* info.yaml decides who the node is; another id or address is an error that names both. */
static void identity_is_kept(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address(), *other = free_address();
	dqlitepy_handle node = 0;
	CHECK_OK(create_and_start(41, address, dir, &node));
	CHECK_OK(dqlitepy_node_stop(node));
	dqlitepy_node_destroy(node);
	CHECK_RC(create_and_start(42, address, dir, &node), DQLITEPY_INVALID);
	CHECK_ERROR_HAS("41");
	CHECK_ERROR_HAS("42");
	dqlitepy_node_destroy(node);
	CHECK_RC(create_and_start(41, other, dir, &node), DQLITEPY_INVALID);
	CHECK_ERROR_HAS(address);
	CHECK_ERROR_HAS(other);
	dqlitepy_node_destroy(node);
	/* The generated id stands for "whichever it is". */
	CHECK_OK(create_and_start(dqlitepy_generate_node_id(address), address, dir, &node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	dqlitepy_node_destroy(node);
	CHECK_HAS(contents(dir, "info.yaml"), "ID: 41\n");
}

static void generated_ids(void)
{
	dqlitepy_node_id a = dqlitepy_generate_node_id("127.0.0.1:9001"), b = dqlitepy_generate_node_id("127.0.0.1:9002");
	CHECK(a == dqlitepy_generate_node_id("127.0.0.1:9001"));
	CHECK(a != b);
	for (int port = 1; port < 2000; port++) {
		char address[40];
		snprintf(address, sizeof address, "10.0.0.1:%d", port);
		dqlitepy_node_id id = dqlitepy_generate_node_id(address);
		CHECK(id != 0 && id != 1 && id != 0x2dc171858c3155beull);
	}
}

static void client_of_one_node(void)
{
	const char *address = free_address(), *nobody = free_address();
	char both[200], want[200], clean[200];
	dqlitepy_handle node = 0, client = 0;
	char *text = NULL;
	CHECK_OK(create_and_start(7, address, path_in_test_dir("node"), &node));
	snprintf(both, sizeof both, "%s, %s", nobody, address); /* one of them is enough */
	CHECK_OK(dqlitepy_client_create(both, &client));
	CHECK(client != 0 && client != node);
	CHECK_OK(dqlitepy_client_leader(client, &text));
	CHECK_TEXT(text, address);
	dqlitepy_free(text);
	CHECK_OK(dqlitepy_client_cluster(client, &text));
	snprintf(want, sizeof want, "[{\"id\":7,\"address\":\"%s\",\"role\":0}]", address);
	size_t n = 0;
	for (char *p = text; *p; p++) /* no blank belongs into this JSON, but some is allowed */
		if (*p != ' ' && *p != '\n' && n + 1 < sizeof clean)
			clean[n++] = *p;
	clean[n] = 0;
	CHECK_TEXT(clean, want);
	dqlitepy_free(text);
	/* The only node cannot be removed, an unknown one is unknown; the cluster goes on. */
	double start = now();
	CHECK(dqlitepy_client_remove(client, 7) != 0);
	CHECK_ERROR_HAS("last");
	CHECK_RC(dqlitepy_client_remove(client, 8), DQLITEPY_NOTFOUND);
	CHECK_ERROR_HAS("8");
	CHECK_RC(dqlitepy_client_remove(client, 0), DQLITEPY_NOTFOUND);
	CHECK_RC(dqlitepy_client_add(client, 0, free_address()), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_client_add(client, 9, "nonsense"), DQLITEPY_INVALID);
	CHECK(dqlitepy_client_add(client, 9, address) != 0); /* this address has another id */
	CHECK_ERROR_HAS(address);
	CHECK_WITHIN(start, 2.0);
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	CHECK_OK(dqlitepy_client_close(client));
	CHECK_RC(dqlitepy_client_close(client), DQLITEPY_NOTFOUND);
	CHECK_RC(dqlitepy_client_leader(client, &text), DQLITEPY_NOTFOUND);
	dqlitepy_node_destroy(node);
}

static void client_without_a_node(void)
{
	const char *one = free_address(), *two = free_address();
	char both[100], *text = (char *)"untouched";
	dqlitepy_handle client = 0;
	snprintf(both, sizeof both, "%s,%s", one, two);
	CHECK_OK(dqlitepy_client_create(both, &client)); /* it does not connect yet */
	CHECK_OK(dqlitepy_client_set_timeout(client, 2000)); /* the usual ones are longer than a test under valgrind */
	double start = now();
	CHECK_RC(dqlitepy_client_leader(client, &text), DQLITEPY_NOLEADER);
	CHECK_WITHIN(start, 4.0);
	CHECK(text == NULL);
	CHECK_ERROR_HAS(one); /* each node with its own reason */
	CHECK_ERROR_HAS(two);
	CHECK_ERROR_HAS("refused");
	CHECK_OK(dqlitepy_client_close(client));
}

/* A relative directory is that of the start, wherever the host goes afterwards. */
static void relative_directory(void)
{
	const char *address = free_address();
	dqlitepy_handle node = 0;
	CHECK(chdir(test_dir()) == 0);
	CHECK_OK(create_and_start(1, address, "relative", &node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK(chdir("/") == 0);
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	for (int i = 0; i < 12; i++) /* more than one segment of the log */
		CHECK_EXEC(node, "INSERT INTO t VALUES(zeroblob(1000000))");
	CHECK_OK(dqlitepy_node_stop(node));
	dqlitepy_node_destroy(node);
	CHECK(access("/relative", F_OK) != 0);
	node = running_node(path_in_test_dir("relative"), address);
	CHECK_JSON(node, "SELECT count(*) AS n FROM t", "[{\"n\":12}]");
	dqlitepy_node_destroy(node);
}

/* The same directory under other names is the same directory. */
static void other_names_of_the_directory(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	const char *const names[] = { path_in_test_dir("node/"), path_in_test_dir("./node/../node"), path_in_test_dir("link") };
	dqlitepy_handle first = running_node(dir, address);
	CHECK_EXEC(first, "CREATE TABLE t(a)");
	CHECK(symlink("node", names[2]) == 0);
	for (int i = 0; i < 3; i++) {
		dqlitepy_handle again = running_node(names[i], address);
		CHECK_JSON(again, "SELECT name FROM sqlite_master", "[{\"name\":\"t\"}]");
		dqlitepy_node_destroy(again);
		CHECK_EXEC(first, "INSERT INTO t VALUES(1)"); /* it stops with its last handle only */
	}
	CHECK_OK(dqlitepy_node_stop(first));
	dqlitepy_node_destroy(first);
}

/* stop is for every handle of the node; each can start it again. */
static void stop_through_another_handle(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	dqlitepy_handle first = running_node(dir, address), second = running_node(dir, address);
	CHECK_EXEC(first, "CREATE TABLE t(a)");
	CHECK_OK(dqlitepy_node_stop(second));
	CHECK_EXEC_FAILS(first, "INSERT INTO t VALUES(1)", DQLITEPY_STOPPED, "stopped");
	CHECK_OK(dqlitepy_node_start(first));
	CHECK_OK(dqlitepy_node_open_db(first, "test.db"));
	CHECK_EXEC(first, "INSERT INTO t VALUES(1)");
	dqlitepy_node_destroy(second);
	CHECK_JSON(first, "SELECT count(*) AS n FROM t", "[{\"n\":1}]");
	dqlitepy_node_destroy(first);
}

/* The cluster list of one is this node. */
static void cluster_of_one(void)
{
	const char *address = free_address();
	dqlitepy_handle node = 0;
	CHECK_OK(dqlitepy_node_create_with_cluster(3, address, path_in_test_dir("node"), address, &node));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	dqlitepy_node_destroy(node);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "lifecycle", lifecycle, 0 },
		{ "start_is_quick", start_is_quick, 0 },
		{ "destroy_while_running", destroy_while_running, 0 },
		{ "many_starts", many_starts, 0 },
		{ "wrong_state", wrong_state, 0 },
		{ "options", options, 0 },
		{ "bind_address", bind_address, 0 },
		{ "port_zero", port_zero, 0 },
		{ "ipv6", ipv6, 0 },
		{ "several_databases", several_databases, 0 },
		{ "two_nodes_in_one_process", two_nodes_in_one_process, 0 },
		{ "attach_again", attach_again, 0 },
		{ "last_error", last_error, 0 },
		{ "outputs_are_zero_on_failure", outputs_are_zero_on_failure, 0 },
		{ "handles_are_never_used_again", handles_are_never_used_again, 0 },
		{ "identity_files", identity_files, 0 },
		{ "identity_is_kept", identity_is_kept, 0 },
		{ "generated_ids", generated_ids, 0 },
		{ "client_of_one_node", client_of_one_node, 0 },
		{ "client_without_a_node", client_without_a_node, 0 },
		{ "relative_directory", relative_directory, 0 },
		{ "other_names_of_the_directory", other_names_of_the_directory, 0 },
		{ "stop_through_another_handle", stop_through_another_handle, 0 },
		{ "cluster_of_one", cluster_of_one, 0 },
		{ NULL, NULL, 0 },
	};
	return check_main(argc, argv, tests);
}
