/*
 * A disk that fills up, or that becomes read-only, under a running node and before a start: the calls say so, what was
 * acknowledged stays, and once there is room again everything goes on. Each test has a small disk of its own, in namespaces of
 * its own.
 */
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/* What raft keeps ready is written into before a full disk is met: three segments of 8 MiB. */
enum { MEGABYTES = 64, ROW_BYTES = 700000, MOST_ROWS = 400 };

static const char *disk, *dir, *address;

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		check_skip("%s: %s", path, strerror(errno));
	close(fd);
}

static void remount(unsigned long flags)
{
	char size[20];
	snprintf(size, sizeof size, "size=%dm", MEGABYTES);
	CHECK(mount(NULL, disk, NULL, MS_REMOUNT | flags, size) == 0);
}

static void make_disk(void)
{
	char users[40], groups[40], size[20];
	snprintf(users, sizeof users, "0 %u 1", (unsigned)getuid());
	snprintf(groups, sizeof groups, "0 %u 1", (unsigned)getgid());
	snprintf(size, sizeof size, "size=%dm", MEGABYTES);
	disk = path_in_test_dir("disk"), dir = path_in_test_dir("disk/node"), address = free_address();
	CHECK(mkdir(disk, 0700) == 0);
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
		check_skip("no namespaces here: %s", strerror(errno));
	write_file("/proc/self/setgroups", "deny");
	write_file("/proc/self/uid_map", users);
	write_file("/proc/self/gid_map", groups);
	if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 || mount("none", disk, "tmpfs", 0, size) != 0)
		check_skip("no mount here: %s", strerror(errno));
}

/* Not a byte is left. */
static void fill(void)
{
	static const char zeros[1 << 16];
	int fd = open(path_in_test_dir("disk/ballast"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	for (size_t size = sizeof zeros; size > 0; size /= 16)
		while (write(fd, zeros, size) > 0)
			;
	CHECK_INT(errno, ENOSPC);
	close(fd);
}

static void empty(void)
{
	CHECK(unlink(path_in_test_dir("disk/ballast")) == 0);
}

/* ---- rows, and what was said of each ---- */

static int outcomes[MOST_ROWS], rows;

static int insert(dqlitepy_handle node)
{
	char sql[120];
	CHECK(rows < MOST_ROWS);
	snprintf(sql, sizeof sql, "INSERT INTO t VALUES(%d, randomblob(%d))", rows, ROW_BYTES);
	return outcomes[rows++] = dqlitepy_node_exec(node, sql, NULL, NULL);
}

/* Of the write that meets the disk nobody can say whether it is made. */
static int insert_until_lost(dqlitepy_handle node)
{
	int got = DQLITEPY_OK;
	for (double start = now(); got == DQLITEPY_OK && now() - start < 20;)
		got = insert(node);
	CHECK_ERROR_HAS("starting the node again");
	return got;
}

/* Until the disk has refused so many. The leader steps down then and takes the lead again. */
static void insert_until_refused(dqlitepy_handle node, int times, int code)
{
	for (int refused = 0; refused < times;) {
		double start = now();
		int got = insert(node);
		CHECK_WITHIN(start, 10.0);
		if (got == DQLITEPY_OK)
			continue;
		CHECK_RC(got, code);
		CHECK_ERROR_HAS(code == DQLITEPY_UNKNOWN ? "disk may be full" : "starting the node again");
		refused++;
	}
}

static int is_writable(void *node)
{
	return insert(*(dqlitepy_handle *)node) == DQLITEPY_OK;
}

/* What was acknowledged is there once; of the rest nothing is known. */
static void check_rows(dqlitepy_handle node)
{
	char sql[120];
	for (int i = 0; i < rows; i++) {
		if (outcomes[i] == DQLITEPY_UNKNOWN || outcomes[i] == DQLITEPY_INTERNAL)
			continue;
		snprintf(sql, sizeof sql, "SELECT count(*) = %d AS ok FROM t WHERE n = %d", outcomes[i] == 0, i);
		CHECK_JSON(node, sql, "[{\"ok\":1}]");
	}
	CHECK_JSON(node, "PRAGMA integrity_check", "[{\"integrity_check\":\"ok\"}]");
}

static dqlitepy_handle node_with_rows(unsigned threshold)
{
	dqlitepy_handle node = 0;
	CHECK_OK(dqlitepy_node_create(1, address, dir, &node));
	CHECK_OK(dqlitepy_node_set_snapshot_params(node, threshold, threshold, DQLITEPY_TRAILING_STATIC));
	CHECK_OK(dqlitepy_node_set_network_latency_ms(node, 20)); /* it takes the lead again in a tenth of the time */
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_EXEC(node, "CREATE TABLE t(n, filling)");
	for (int i = 0; i < 5; i++)
		CHECK_OK(insert(node));
	return node;
}

static void full_and_back(unsigned threshold, int rounds)
{
	make_disk();
	dqlitepy_handle node = node_with_rows(threshold);
	for (int round = 0; round < rounds; round++) {
		fill();
		insert_until_refused(node, 1 + round, DQLITEPY_UNKNOWN);
		check_rows(node); /* reads go on */
		empty();
		WAIT_UNTIL(10, is_writable, &node);
		check_rows(node);
		CHECK_EXEC(node, "UPDATE t SET filling = NULL");
		CHECK_OK(dqlitepy_node_stop(node));
		CHECK_OK(dqlitepy_node_start(node));
		CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
		check_rows(node);
	}
	dqlitepy_node_destroy(node);
}

static void full_and_back_without_snapshots(void) { full_and_back(1000, 2); }
static void full_and_back_with_snapshots(void) { full_and_back(8, 1); }

static void check_start_fails(dqlitepy_handle node, const char *reason)
{
	for (int i = 0; i < 3; i++) {
		double start = now();
		CHECK(dqlitepy_node_start(node) != DQLITEPY_OK);
		CHECK_WITHIN(start, 5.0);
		CHECK_ERROR_HAS(dir);
		CHECK_ERROR_HAS(reason);
	}
}

static void starts_on_a_full_disk(void)
{
	dqlitepy_handle node = 0;
	make_disk();
	fill();
	CHECK_OK(dqlitepy_node_create(1, address, dir, &node));
	check_start_fails(node, "make some and start again");
	empty();
	dqlitepy_node_destroy(node);
	node = node_with_rows(1000);
	CHECK_OK(dqlitepy_node_stop(node));
	fill();
	check_start_fails(node, "make some and start again");
	empty();
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	check_rows(node);
	dqlitepy_node_destroy(node);
}

static void starts_on_a_read_only_disk(void)
{
	dqlitepy_handle node = 0;
	make_disk();
	remount(MS_RDONLY);
	CHECK_OK(dqlitepy_node_create(1, address, dir, &node));
	check_start_fails(node, "read-only");
	remount(0);
	dqlitepy_node_destroy(node);
	node = node_with_rows(1000);
	CHECK_OK(dqlitepy_node_stop(node));
	remount(MS_RDONLY);
	check_start_fails(node, "read-only");
	remount(0);
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	check_rows(node);
	dqlitepy_node_destroy(node);
}

/* A mount with files that are open for writing cannot be made read-only. So the same directory is laid over it: what is open
 * stays as it is, and nothing can be made, renamed or removed. A node that cannot keep its log is lost, and says so. */
static void read_only_while_running(void)
{
	make_disk();
	dqlitepy_handle node = node_with_rows(8);
	CHECK(mount(dir, dir, NULL, MS_BIND, NULL) == 0);
	CHECK(mount(NULL, dir, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) == 0);
	CHECK_RC(insert_until_lost(node), DQLITEPY_UNKNOWN);
	insert_until_refused(node, 1, DQLITEPY_INTERNAL);
	CHECK_OK(dqlitepy_node_stop(node));
	check_start_fails(node, "read-only");
	CHECK(umount2(dir, MNT_DETACH) == 0);
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_OK(insert(node));
	check_rows(node);
	dqlitepy_node_destroy(node);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "full_and_back_without_snapshots", full_and_back_without_snapshots, 60 },
		{ "full_and_back_with_snapshots", full_and_back_with_snapshots, 60 },
		{ "starts_on_a_full_disk", starts_on_a_full_disk, 60 },
		{ "starts_on_a_read_only_disk", starts_on_a_read_only_disk, 60 },
		{ "read_only_while_running", read_only_while_running, 60 },
		{ NULL, NULL, 0 },
	};
	return check_main(argc, argv, tests);
}
