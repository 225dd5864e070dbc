#include "check.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_FAILED = 1, EXIT_SKIPPED = 77, REASON_BYTES = 4096, DEFAULT_SECONDS = 30 };

/* In the parent: why the test failed, as its process wrote it into a pipe. */
static char reason[REASON_BYTES];
/* In the test's process: that pipe, and the test's directory. */
static int reason_fd = -1;
static char directory[3000];

/* ---- running tests ---- */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *walk)
{
	(void)st, (void)type, (void)walk;
	/* A directory that a test made unreadable must not stay behind. */
	return remove(path);
}

static void remove_tree(const char *path)
{
	nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* This program's path: what a checker of memory runs under is not what /proc/self/exe leads to. */
static const char *own_path(void)
{
	static char path[3000];
	ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
	return n > 0 ? path : "/proc/self/exe";
}

/* CHECK_UNDER is a command that tests run under, its words separated by blanks. Everything takes so many times as long. */
enum { SLOWER = 20 };

static void exec_test(const char *name, const char *dir, const char *fd)
{
	static char words[1000];
	const char *under = getenv("CHECK_UNDER"), *argv[40];
	int n = 0;
	snprintf(words, sizeof words, "%s", under ? under : "");
	for (char *word = strtok(words, " "); word && n < 30; word = strtok(NULL, " "))
		argv[n++] = word;
	const char *const rest[] = { own_path(), "--test", name, dir, fd, NULL };
	memcpy(argv + n, rest, sizeof rest);
	execvp(argv[0], (char *const *)argv);
	_exit(127);
}

/* The test's process: this program once more, with a fresh library. Its output goes to a file that the parent reads. */
static void start_test(const struct test *test, const char *dir, const char *output, int write_reason)
{
	char fd_text[16];
	int fd = open(output, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0 || fcntl(write_reason, F_SETFD, 0) < 0)
		_exit(EXIT_FAILED);
	snprintf(fd_text, sizeof fd_text, "%d", write_reason);
	alarm((unsigned)(test->seconds ? test->seconds : DEFAULT_SECONDS) * (getenv("CHECK_UNDER") ? SLOWER : 1));
	exec_test(test->name, dir, fd_text);
}

/* Under a tool that slows everything down the usual deadlines say nothing. */
static void slower_deadlines(void)
{
#ifndef CHECK_WITHOUT_LIBRARY
	for (int what = DQLITEPY_FOR_CALLS; getenv("CHECK_UNDER") && what <= DQLITEPY_FOR_STOP; what++)
		dqlitepy_set_default_timeout(what, 30000 * SLOWER);
#endif
}

static int run_one(const struct test *tests, char **arguments)
{
	snprintf(directory, sizeof directory, "%s", arguments[1]);
	reason_fd = atoi(arguments[2]);
	fcntl(reason_fd, F_SETFD, FD_CLOEXEC); /* no helper holds it open */
	slower_deadlines();
	for (const struct test *test = tests; test->name; test++)
		if (strcmp(test->name, arguments[0]) == 0)
			test->run();
	/* return from main, not _exit: a host that ends with a running node ends like this */
	return 0;
}

static void read_reason(int fd)
{
	size_t used = 0;
	ssize_t n;
	while (used < REASON_BYTES - 1 && (n = read(fd, reason + used, REASON_BYTES - 1 - used)) > 0)
		used += (size_t)n;
	reason[used] = 0;
}

/* What the test's process wrote, cut to what fits. */
static void append_output(const char *output)
{
	size_t used = strlen(reason);
	FILE *f = fopen(output, "r");
	char text[1500];
	size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
	if (f)
		fclose(f);
	text[n] = 0;
	if (n > 0)
		snprintf(reason + used, REASON_BYTES - used, "%sit wrote to stdout or stderr: %s", used ? "; " : "", text);
}

static int run_test(const struct test *test, const char *base)
{
	char dir[3000], output[3000];
	int status = 0, pipe_fds[2];
	snprintf(dir, sizeof dir, "%s/%s", base, test->name);
	snprintf(output, sizeof output, "%s/output", base);
	if (mkdir(dir, 0700) != 0 || pipe2(pipe_fds, O_CLOEXEC) != 0) {
		printf("FAIL %s: set-up: %s\n", test->name, strerror(errno));
		return EXIT_FAILED;
	}
	double start = now();
	pid_t pid = fork();
	if (pid == 0)
		start_test(test, dir, output, pipe_fds[1]);
	close(pipe_fds[1]);
	read_reason(pipe_fds[0]);
	close(pipe_fds[0]);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILED;
	if (WIFSIGNALED(status)) {
		if (WTERMSIG(status) == SIGALRM)
			snprintf(reason, REASON_BYTES, "still running after its time limit of %d s",
				 test->seconds ? test->seconds : DEFAULT_SECONDS);
		else
			snprintf(reason, REASON_BYTES, "killed by signal %d", WTERMSIG(status));
	} else if (code != 0 && code != EXIT_SKIPPED && reason[0] == 0) {
		snprintf(reason, REASON_BYTES, "exit code %d", code);
	}
	if (code != EXIT_SKIPPED) {
		append_output(output);
		if (reason[0])
			code = EXIT_FAILED;
	}
	if (code == 0)
		printf("ok %s (%.1f s)\n", test->name, now() - start);
	else
		printf("%s %s: %s\n", code == EXIT_SKIPPED ? "skip" : "FAIL", test->name, reason);
	fflush(stdout);
	remove_tree(dir);
	return code;
}

static int is_wanted(const struct test *test, int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], test->name) == 0)
			return 1;
	return argc <= 1;
}

int check_main(int argc, char **argv, const struct test *tests)
{
	const char *tmp = getenv("TMPDIR");
	char base[2000];
	int passed = 0, failed = 0, skipped = 0;
	if (argc == 5 && strcmp(argv[1], "--test") == 0)
		return run_one(tests, argv + 2);
	snprintf(base, sizeof base, "%s/dqlitepy-test-XXXXXX", tmp && *tmp ? tmp : "/tmp");
	if (!mkdtemp(base) || chmod(base, 0711) != 0) { /* a test may go on as another user */
		printf("FAIL set-up: %s: %s\n", base, strerror(errno));
		return 1;
	}
	fflush(stdout);
	for (const struct test *test = tests; test->name; test++) {
		if (!is_wanted(test, argc, argv))
			continue;
		switch (run_test(test, base)) {
		case 0:
			passed++;
			break;
		case EXIT_SKIPPED:
			skipped++;
			break;
		default:
			failed++;
		}
	}
	remove_tree(base);
	printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
	return failed > 0 || passed + skipped == 0;
}

/* ---- checks ---- */

/* Does not return. A helper process has no pipe: it writes to stderr, which is the test's output. */
static void end_test(int code, const char *format, va_list arguments, const char *prefix)
{
	char text[REASON_BYTES];
	int n = snprintf(text, sizeof text, "%s", prefix);
	vsnprintf(text + n, sizeof text - (size_t)n, format, arguments);
	if (write(reason_fd < 0 ? 2 : reason_fd, text, strlen(text)) < 0)
		code = EXIT_FAILED;
	_exit(code);
}

void check_fail(const char *file, int line, const char *format, ...)
{
	char prefix[300];
	const char *name = strrchr(file, '/');
	va_list arguments;
	va_start(arguments, format);
	snprintf(prefix, sizeof prefix, "%s:%d: ", name ? name + 1 : file, line);
	end_test(EXIT_FAILED, format, arguments, prefix);
	abort();
}

void check_skip(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	end_test(EXIT_SKIPPED, format, arguments, "");
	abort();
}

void check_int(const char *file, int line, const char *what, long long got, long long want)
{
	if (got != want)
		check_fail(file, line, "%s is %lld, not %lld", what, got, want);
}

void check_text(const char *file, int line, const char *what, const char *got, const char *want)
{
	if (!got || strcmp(got, want) != 0)
		check_fail(file, line, "%s is '%.600s', not '%.600s'", what, got ? got : "(NULL)", want);
}

void check_has(const char *file, int line, const char *text, const char *part)
{
	size_t n = strlen(part);
	for (const char *p = text; p && *p; p++)
		if (strncasecmp(p, part, n) == 0)
			return;
	check_fail(file, line, "'%s' is not in '%.1000s'", part, text ? text : "(NULL)");
}

void check_within(const char *file, int line, double start, double seconds)
{
	double passed = now() - start;
	if (passed > seconds * (getenv("CHECK_UNDER") ? SLOWER : 1))
		check_fail(file, line, "took %.2f s, not less than %.2f s", passed, seconds);
}

#ifndef CHECK_WITHOUT_LIBRARY

const char *last_error_text(void)
{
	static __thread char text[2000];
	char *message = dqlitepy_last_error();
	snprintf(text, sizeof text, "%s", message ? message : "");
	dqlitepy_free(message);
	return text;
}

void check_rc(const char *file, int line, const char *call, int got, int want)
{
	if (got != want)
		check_fail(file, line, "%s gave %d, not %d; last error: %.1000s", call, got, want,
			   got ? last_error_text() : "-");
	if (got != 0 && last_error_text()[0] == 0)
		check_fail(file, line, "%s gave %d and no message", call, got);
}

/* Copy JSON without the blanks outside of strings. */
static void squeeze(char *out, const char *in, size_t size)
{
	int in_string = 0;
	size_t n = 0;
	for (; *in && n + 2 < size; in++) {
		if (in_string || !isspace((unsigned char)*in))
			out[n++] = *in;
		if (*in == '\\' && in_string && in[1])
			out[n++] = *++in;
		else if (*in == '"')
			in_string = !in_string;
	}
	out[n] = 0;
}

void check_json(const char *file, int line, dqlitepy_handle node, const char *sql, const char *want)
{
	char a[4000], b[4000];
	char *json = NULL;
	check_rc(file, line, sql, dqlitepy_node_query(node, sql, &json), 0);
	if (!json)
		check_fail(file, line, "%s: no JSON", sql);
	squeeze(a, json, sizeof a);
	squeeze(b, want, sizeof b);
	dqlitepy_free(json);
	if (strcmp(a, b) != 0)
		check_fail(file, line, "%s gave %.1000s, not %.1000s", sql, a, b);
}

void check_exec(const char *file, int line, dqlitepy_handle node, const char *sql, const long long numbers[2])
{
	int64_t id = -77, rows = -77;
	check_rc(file, line, sql, dqlitepy_node_exec(node, sql, &id, &rows), 0);
	if (numbers && (id != numbers[0] || rows != numbers[1]))
		check_fail(file, line, "%.200s: last_insert_id %lld and rows_affected %lld, not %lld and %lld", sql,
			   (long long)id, (long long)rows, numbers[0], numbers[1]);
}

void check_exec_fails(const char *file, int line, dqlitepy_handle node, const char *sql, int code, const char *part)
{
	int64_t id = -77, rows = -77;
	check_rc(file, line, sql, dqlitepy_node_exec(node, sql, &id, &rows), code);
	check_has(file, line, last_error_text(), part);
	if (id != 0 || rows != 0)
		check_fail(file, line, "%.200s failed, but its outputs are %lld and %lld, not 0", sql, (long long)id,
			   (long long)rows);
}

void check_query_fails(const char *file, int line, dqlitepy_handle node, const char *sql, int code, const char *part)
{
	static char untouched[] = "untouched";
	char *json = untouched;
	check_rc(file, line, sql, dqlitepy_node_query(node, sql, &json), code);
	check_has(file, line, last_error_text(), part);
	if (json != NULL)
		check_fail(file, line, "%.200s failed, but its output is not NULL", sql);
}

dqlitepy_handle running_node(const char *dir, const char *address)
{
	dqlitepy_handle node = 0;
	CHECK_OK(dqlitepy_node_create(1, address, dir, &node));
	CHECK(node != 0);
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	return node;
}

#endif

/* ---- files, addresses, time ---- */

const char *test_dir(void)
{
	return directory;
}

const char *path_in_test_dir(const char *name)
{
	size_t size = strlen(directory) + strlen(name) + 2;
	char *path = malloc(size); /* never freed: it may be in use until the process ends */
	if (!path)
		check_fail(__FILE__, __LINE__, "out of memory");
	snprintf(path, size, "%s/%s", directory, name);
	return path;
}

static int files_counted;

static int count_entry(const char *path, const struct stat *st, int type, struct FTW *walk)
{
	(void)path, (void)st, (void)walk;
	if (type != FTW_D && type != FTW_DP && type != FTW_DNR)
		files_counted++;
	return 0;
}

int count_files(const char *path)
{
	files_counted = 0;
	nftw(path, count_entry, 16, FTW_PHYS);
	return files_counted;
}

static struct sockaddr_in parse_address(const char *address)
{
	struct sockaddr_in in = { .sin_family = AF_INET };
	char host[40];
	unsigned port = 0;
	if (sscanf(address, "%39[^:]:%u", host, &port) != 2 || inet_pton(AF_INET, host, &in.sin_addr) != 1)
		check_fail(__FILE__, __LINE__, "the test's own address '%s' is wrong", address);
	in.sin_port = htons((uint16_t)port);
	return in;
}

static int tcp_socket(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		check_fail(__FILE__, __LINE__, "socket: %s", strerror(errno));
	return fd;
}

static int try_listen(const char *address)
{
	struct sockaddr_in in = parse_address(address);
	int one = 1, fd = tcp_socket();
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, (struct sockaddr *)&in, sizeof in) == 0 && listen(fd, 16) == 0)
		return fd;
	close(fd);
	return -1;
}

int tcp_listen(const char *address)
{
	int fd = try_listen(address);
	if (fd < 0)
		check_fail(__FILE__, __LINE__, "listen on %s: %s", address, strerror(errno));
	return fd;
}

int tcp_connect(const char *address)
{
	struct sockaddr_in in = parse_address(address);
	int fd = tcp_socket();
	if (connect(fd, (struct sockaddr *)&in, sizeof in) != 0)
		check_fail(__FILE__, __LINE__, "connect to %s: %s", address, strerror(errno));
	return fd;
}

const char *free_address(void)
{
	/* 127.64.0.0 to 127.127.255.255, by process id: two processes never race for one port, which they would if
	 * they asked the kernel for a free one and bound it later. */
	static int next_port = 9001;
	unsigned pid = (unsigned)getpid();
	char *address = malloc(40);
	for (; address && next_port < 20000; next_port++) {
		snprintf(address, 40, "127.%u.%u.%u:%d", 64 + ((pid >> 16) & 63), (pid >> 8) & 255, pid & 255, next_port);
		int fd = try_listen(address);
		if (fd < 0)
			continue;
		close(fd);
		next_port++;
		return address;
	}
	check_fail(__FILE__, __LINE__, "no free port");
}

double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double cpu_seconds(void)
{
	struct timespec spent;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
	return (double)spent.tv_sec + (double)spent.tv_nsec * 1e-9;
}

int has_computed(void *since)
{
	return cpu_seconds() > *(double *)since + 0.02;
}

void wait_until(const char *file, int line, const char *what, double seconds, int (*ready)(void *), void *argument)
{
	double end = now() + seconds;
	while (!ready(argument)) {
		if (now() > end)
			check_fail(file, line, "%s is not so after %.1f s", what, seconds);
		poll(NULL, 0, 2); /* a pause between two looks, not a time to wait for */
	}
}

/* ---- other processes ---- */

struct helper start_helper(const char *const *arguments)
{
	char *argv[16] = { "helper", "--helper" };
	int n = 2, to[2], from[2];
	while (*arguments && n < 15)
		argv[n++] = (char *)*arguments++;
	if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0)
		check_fail(__FILE__, __LINE__, "pipe: %s", strerror(errno));
	struct helper helper = { .pid = fork(), .in = to[1], .out = from[0] };
	if (helper.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(to[0], 0);
		dup2(from[1], 1);
		execv(own_path(), argv);
		_exit(127);
	}
	close(to[0]);
	close(from[1]);
	return helper;
}

const char *helper_line(struct helper *helper, double seconds)
{
	static char line[1000];
	double end = now() + seconds;
	size_t n = 0;
	while (n + 1 < sizeof line) {
		struct pollfd waiting = { .fd = helper->out, .events = POLLIN };
		int left = (int)((end - now()) * 1000);
		if (left < 0 || poll(&waiting, 1, left) == 0)
			check_fail(__FILE__, __LINE__, "the helper said nothing for %.1f s", seconds);
		if (read(helper->out, line + n, 1) != 1)
			check_fail(__FILE__, __LINE__, "the helper ended");
		if (line[n] == '\n')
			break;
		n++;
	}
	line[n] = 0;
	return line;
}

struct child {
	pid_t pid;
	int status;
};

static int has_ended(void *argument)
{
	struct child *child = argument;
	return waitpid(child->pid, &child->status, WNOHANG) == child->pid;
}

int wait_for_exit(pid_t pid, double seconds)
{
	struct child child = { .pid = pid };
	WAIT_UNTIL(seconds, has_ended, &child);
	return WIFSIGNALED(child.status) ? -WTERMSIG(child.status) : WEXITSTATUS(child.status);
}
