/*
 * What the C tests share. A program lists its tests and calls check_main; each test runs in a process of its own (this
 * program again, by exec) with an empty directory and a time limit, so that a crash or a hang is that test's failure and nobody else's. A failed
 * CHECK ends the test's process. What a test's process writes to stdout or stderr fails it: the library is silent.
 */
#ifndef DQLITEPY_TESTS_CHECK_H
#define DQLITEPY_TESTS_CHECK_H

#include <stddef.h>
#include <sys/types.h>

#include "dqlitepy.h"

struct test {
	const char *name;
	void (*run)(void);
	int seconds; /* time limit, 0 = the default of 30 */
};

/* Run the tests named in argv, or all of them; the list ends with a name of NULL. Returns the exit code of main. */
int check_main(int argc, char **argv, const struct test *tests);

/* End this test: as failed, or as one that cannot run here. */
void check_fail(const char *file, int line, const char *format, ...) __attribute__((noreturn, format(printf, 3, 4)));
void check_skip(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

#define CHECK(condition) ((condition) ? (void)0 : check_fail(__FILE__, __LINE__, "not so: %s", #condition))
#define CHECK_INT(got, want) check_int(__FILE__, __LINE__, #got, (long long)(got), (long long)(want))
#define CHECK_TEXT(got, want) check_text(__FILE__, __LINE__, #got, (got), (want))
#define CHECK_HAS(text, part) check_has(__FILE__, __LINE__, (text), (part))
/* The call returns that code; a failure shows the library's message. */
#define CHECK_RC(call, code) check_rc(__FILE__, __LINE__, #call, (call), (code))
#define CHECK_OK(call) CHECK_RC(call, DQLITEPY_OK)
/* The last error of this thread contains the part, in whatever case. */
#define CHECK_ERROR_HAS(part) check_has(__FILE__, __LINE__, last_error_text(), (part))
/* The query gives this JSON, blanks outside of strings ignored. */
#define CHECK_JSON(node, sql, want) check_json(__FILE__, __LINE__, (node), (sql), (want))
/* exec succeeds; _NUMBERS also says which last_insert_id and rows_affected. */
#define CHECK_EXEC(node, sql) check_exec(__FILE__, __LINE__, (node), (sql), NULL)
#define CHECK_EXEC_NUMBERS(node, sql, id, rows) \
	check_exec(__FILE__, __LINE__, (node), (sql), (const long long[2]){ (id), (rows) })
/* The statement fails with this code and a message that contains the part; the outputs are zero. */
#define CHECK_EXEC_FAILS(node, sql, code, part) check_exec_fails(__FILE__, __LINE__, (node), (sql), (code), (part))
#define CHECK_QUERY_FAILS(node, sql, code, part) check_query_fails(__FILE__, __LINE__, (node), (sql), (code), (part))
/* Less than so many seconds have passed since `start` (see now). */
#define CHECK_WITHIN(start, seconds) check_within(__FILE__, __LINE__, (start), (seconds))

void check_int(const char *file, int line, const char *what, long long got, long long want);
void check_text(const char *file, int line, const char *what, const char *got, const char *want);
void check_has(const char *file, int line, const char *text, const char *part);
void check_rc(const char *file, int line, const char *call, int got, int want);
void check_json(const char *file, int line, dqlitepy_handle node, const char *sql, const char *want);
void check_exec(const char *file, int line, dqlitepy_handle node, const char *sql, const long long numbers[2]);
void check_exec_fails(const char *file, int line, dqlitepy_handle node, const char *sql, int code, const char *part);
void check_query_fails(const char *file, int line, dqlitepy_handle node, const char *sql, int code, const char *part);
void check_within(const char *file, int line, double start, double seconds);

/* The last error of this thread, "" if there is none; valid until this thread calls it again. */
const char *last_error_text(void);

/* This test's directory, and a path in it; the strings live as long as the process. */
const char *test_dir(void);
const char *path_in_test_dir(const char *name);
/* How many files and links there are below path; 0 if it does not exist. */
int count_files(const char *path);

/* An address on the loopback network that no other process of these tests uses and nobody listens on. */
const char *free_address(void);
/* A TCP socket connected to, or listening on, such an address. */
int tcp_connect(const char *address);
int tcp_listen(const char *address);

double now(void);
/* What this process has computed so far; and whether it has been at it since, for more than a moment. */
double cpu_seconds(void);
int has_computed(void *since);
/* Ask again and again until the answer is not 0; fails the test after that many seconds. */
#define WAIT_UNTIL(seconds, ready, argument) wait_until(__FILE__, __LINE__, #ready, (seconds), (ready), (argument))
void wait_until(const char *file, int line, const char *what, double seconds, int (*ready)(void *), void *argument);

/* A node with the id 1 that runs and has the database "test.db" open. */
dqlitepy_handle running_node(const char *dir, const char *address);

/* A helper: this same program as a new process, which dies with this one. Its main gets "--helper" and the arguments
 * (the list ends with NULL) and talks through its stdin and stdout. */
struct helper {
	pid_t pid;
	int in;  /* write here */
	int out; /* read here */
};
struct helper start_helper(const char *const *arguments);
/* The next line of the helper, without its end, within that many seconds. */
const char *helper_line(struct helper *helper, double seconds);
/* Wait for the end of a child of ours: its exit code, or minus the signal. */
int wait_for_exit(pid_t pid, double seconds);

#endif
