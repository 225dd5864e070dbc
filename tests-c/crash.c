/*
 * The end of a process at each change that it makes in a node's directory: it is killed before the first one, before the
 * second one, and so on until none is left. Starting again has to make all of them good.
 */
#include "check.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* ---- in the process that is killed: the library calls these in place of libc's ---- */

static const char *watched; /* the directory; NULL = nothing is counted */
static atomic_int left;	    /* so many changes are made yet */

static void *real(const char *name)
{
	void *function = dlsym(RTLD_NEXT, name);
	if (!function)
		abort();
	return function;
}

#define REAL(type, name, ...)                                                                                                      \
	static type (*call)(__VA_ARGS__);                                                                                          \
	if (!call)                                                                                                                 \
	*(void **)&call = real(name)

/* But for the engine's question what the file system can do. */
static void before_change(const char *path)
{
	if (watched && strncmp(path, watched, strlen(watched)) == 0 && !strstr(path, "/.probe") && atomic_fetch_sub(&left, 1) == 0)
		raise(SIGKILL);
}

static void before_change_of(int fd)
{
	char link[40], path[3000];
	if (!watched)
		return;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, sizeof path - 1);
	path[n > 0 ? n : 0] = 0;
	before_change(path);
}

int open64(const char *path, int flags, ...)
{
	va_list arguments;
	REAL(int, "open64", const char *, int, ...);
	va_start(arguments, flags);
	mode_t mode = (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(arguments, mode_t) : 0;
	va_end(arguments);
	if (flags & O_CREAT)
		before_change(path);
	return call(path, flags, mode);
}

int mkdir(const char *path, mode_t mode)
{
	REAL(int, "mkdir", const char *, mode_t);
	before_change(path);
	return call(path, mode);
}

int rename(const char *from, const char *to)
{
	REAL(int, "rename", const char *, const char *);
	before_change(to);
	return call(from, to);
}

int unlink(const char *path)
{
	REAL(int, "unlink", const char *);
	before_change(path);
	return call(path);
}

ssize_t write(int fd, const void *bytes, size_t n)
{
	REAL(ssize_t, "write", int, const void *, size_t);
	before_change_of(fd);
	return call(fd, bytes, n);
}

ssize_t writev(int fd, const struct iovec *parts, int n)
{
	REAL(ssize_t, "writev", int, const struct iovec *, int);
	before_change_of(fd);
	return call(fd, parts, n);
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at)
{
	REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
	before_change_of(fd);
	return call(fd, bytes, n, at);
}

int ftruncate64(int fd, off64_t size)
{
	REAL(int, "ftruncate64", int, off64_t);
	before_change_of(fd);
	return call(fd, size);
}

int posix_fallocate64(int fd, off64_t at, off64_t n)
{
	REAL(int, "posix_fallocate64", int, off64_t, off64_t);
	before_change_of(fd);
	return call(fd, at, n);
}

/* ---- nodes ---- */

/* Its directory, its address and the list it is given, as the one process and the next have them. */
struct node {
	unsigned id;
	const char *dir, *address, *list;
};

static dqlitepy_handle made(struct node it)
{
	dqlitepy_handle node = 0;
	if (it.list[0])
		CHECK_OK(dqlitepy_node_create_with_cluster(it.id, it.address, it.dir, it.list, &node));
	else
		CHECK_OK(dqlitepy_node_create(it.id, it.address, it.dir, &node));
	/* Where both of two voters were killed, the start waits for an election. */
	CHECK_OK(dqlitepy_node_set_network_latency_ms(node, 20));
	return node;
}

static dqlitepy_handle started(struct node it)
{
	dqlitepy_handle node = made(it);
	CHECK_OK(dqlitepy_node_start(node));
	return node;
}

static dqlitepy_handle client_of(const char *addresses)
{
	dqlitepy_handle client = 0;
	CHECK_OK(dqlitepy_client_create(addresses, &client));
	return client;
}

/* What the next process does is counted, in the directory of the last of the nodes. */
static void arm(const char *dir, const char *changes)
{
	atomic_store(&left, atoi(changes));
	watched = dir;
}

/* --helper start CHANGES DIR ADDRESS ID LIST: a node starts. */
static int start_helper_node(char **argv)
{
	struct node it = { (unsigned)atoi(argv[6]), argv[4], argv[5], argv[7] };
	arm(it.dir, argv[3]);
	dqlitepy_handle node = started(it);
	watched = NULL;
	dqlitepy_node_destroy(node);
	return 0;
}

/* --helper add CHANGES DIR ADDRESS DIR ADDRESS: two blank nodes, of which the second is added to the first. */
static int add_helper_node(char **argv)
{
	struct node first = { 1, argv[4], argv[5], "" }, second = { 2, argv[6], argv[7], "" };
	dqlitepy_handle nodes[] = { started(first), started(second) };
	arm(second.dir, argv[3]);
	CHECK_OK(dqlitepy_client_add(client_of(first.address), 2, second.address));
	watched = NULL;
	dqlitepy_node_destroy(nodes[1]);
	dqlitepy_node_destroy(nodes[0]);
	return 0;
}

/* ---- the tests ---- */

enum { MOST = 200 };

/* Whether that process was killed amid what it did; if not, it was done before. */
static int is_killed(const char *const *arguments)
{
	struct helper helper = start_helper(arguments);
	int code = wait_for_exit(helper.pid, 60);
	close(helper.in);
	close(helper.out);
	CHECK(code == 0 || code == -SIGKILL);
	return code != 0;
}

static const char *text_of(const char *format, int n)
{
	char *text = malloc(20);
	snprintf(text, 20, format, n);
	return text;
}

static int is_killed_in_start(struct node it, int changes)
{
	const char *const arguments[] = { "start", text_of("%d", changes), it.dir, it.address, text_of("%d", (int)it.id), it.list, NULL };
	return is_killed(arguments);
}

/* Twice: what the start made good stays good. */
static void check_serves_alone(struct node it)
{
	for (int round = 1; round <= 2; round++) {
		char count[40];
		dqlitepy_handle node = started(it);
		CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
		CHECK_EXEC(node, "CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES(1)");
		snprintf(count, sizeof count, "[{\"n\":%d}]", round);
		CHECK_JSON(node, "SELECT count(*) AS n FROM t", count);
		dqlitepy_node_destroy(node);
	}
}

static void while_it_founds(void)
{
	int n, killed = 1;
	for (n = 0; killed && n < MOST; n++) {
		struct node it = { 7, path_in_test_dir(text_of("node%d", n)), free_address(), "" };
		killed = is_killed_in_start(it, n);
		check_serves_alone(it);
	}
	CHECK(!killed && n > 10);
}

static dqlitepy_handle founder; /* with the table t and a row */
static const char *founded;

static void found(void)
{
	founded = free_address();
	founder = running_node(path_in_test_dir("founder"), founded);
	CHECK_EXEC(founder, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
}

/* The members are the founder and this one, and it is of use. */
static void check_joined(struct node it, dqlitepy_handle node)
{
	char *json = NULL, member[80];
	dqlitepy_handle client = client_of(founded);
	int members = 0;
	CHECK_OK(dqlitepy_client_cluster(client, &json));
	snprintf(member, sizeof member, "{\"id\": %u, \"address\": \"%s\"", it.id, it.address);
	CHECK_HAS(json, member);
	for (const char *id = json; (id = strstr(id, "\"id\":")) != NULL; id++)
		members++;
	CHECK_INT(members, 2);
	dqlitepy_free(json);
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_EXEC(node, "INSERT INTO t VALUES(2)");
	CHECK_JSON(founder, "DELETE FROM t WHERE a = 2 RETURNING a", "[{\"a\":2}]");
	CHECK_OK(dqlitepy_client_close(client));
}

/* Started again it is a member; and once more, when nothing is left to do. */
static void check_joins(struct node it)
{
	for (int round = 1; round <= 2; round++) {
		dqlitepy_handle node = started(it);
		check_joined(it, node);
		dqlitepy_node_destroy(node);
	}
}

static void remove_member(unsigned id)
{
	dqlitepy_handle client = client_of(founded);
	CHECK_OK(dqlitepy_client_remove(client, id));
	CHECK_OK(dqlitepy_client_close(client));
}

static void while_it_joins(void)
{
	int n, killed = 1;
	found();
	for (n = 0; killed && n < MOST; n++) {
		struct node it = { 10 + (unsigned)n, path_in_test_dir(text_of("node%d", n)), free_address(), founded };
		killed = is_killed_in_start(it, n);
		check_joins(it);
		remove_member(it.id);
	}
	CHECK(!killed && n > 10);
	dqlitepy_node_destroy(founder);
}

/* It is a member by the others' account, and has nothing any more. */
static void while_it_joins_anew(void)
{
	int n, killed = 1;
	found();
	const char *address = free_address();
	dqlitepy_node_destroy(started((struct node){ 2, path_in_test_dir("lost"), address, founded }));
	for (n = 0; killed && n < MOST; n++) {
		struct node it = { 2, path_in_test_dir(text_of("node%d", n)), address, founded };
		killed = is_killed_in_start(it, n);
		check_joins(it);
	}
	CHECK(!killed && n > 10);
	dqlitepy_node_destroy(founder);
}

/* One cluster of two in the end, wherever the way there was cut off. */
static void while_a_blank_node_is_added(void)
{
	int n, killed = 1;
	for (n = 0; killed && n < MOST; n++) {
		struct node first = { 1, path_in_test_dir(text_of("first%d", n)), free_address(), "" };
		struct node second = { 2, path_in_test_dir(text_of("second%d", n)), free_address(), "" };
		const char *const arguments[] = { "add", text_of("%d", n), first.dir, first.address, second.dir, second.address, NULL };
		killed = is_killed(arguments);
		founder = started(first), founded = first.address;
		dqlitepy_handle node = started(second), client = client_of(founded);
		CHECK_OK(dqlitepy_client_add(client, 2, second.address));
		CHECK_OK(dqlitepy_node_open_db(founder, "test.db"));
		CHECK_EXEC(founder, "CREATE TABLE t(a)");
		check_joined(second, node);
		CHECK_OK(dqlitepy_client_close(client));
		dqlitepy_node_destroy(node);
		dqlitepy_node_destroy(founder);
	}
	CHECK(!killed && n > 10);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "while_it_founds", while_it_founds, 60 },
		{ "while_it_joins", while_it_joins, 60 },
		{ "while_it_joins_anew", while_it_joins_anew, 60 },
		{ "while_a_blank_node_is_added", while_a_blank_node_is_added, 60 },
		{ NULL, NULL, 0 },
	};
	if (argc > 3 && strcmp(argv[1], "--helper") == 0)
		return strcmp(argv[2], "add") ? start_helper_node(argv) : add_helper_node(argv);
	return check_main(argc, argv, tests);
}
