/*
 * Where the engine's assertions end.
 *
 * This file includes no header of the engine: lib/assert.h declares dqlite_fail weak, and a definition that sees that
 * declaration would be weak as well and lose against the engine's own, which aborts.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

__thread struct glue_guard *glue_guard_top;

void __real_abort(void) __attribute__((noreturn));
void __wrap_abort(void) __attribute__((noreturn));
void __wrap___assert_fail(const char *, const char *, unsigned, const char *) __attribute__((noreturn));
void dqlite_fail(const char *, const char *, unsigned, const char *) __attribute__((noreturn));

/* Developers who want the core dump set DQLITEPY_ASSERT=abort. */
static bool wants_core(void)
{
	const char *value = getenv("DQLITEPY_ASSERT");
	return value != NULL && strcmp(value, "abort") == 0;
}

static void __attribute__((noreturn)) lose(const char *reason)
{
	struct glue_guard *guard = glue_guard_top;
	if (guard == NULL || wants_core() || !CURE_ASSERTIONS) {
		__real_abort();
	}
	glue_guard_top = guard->outer;
	glue_mark_lost(guard->node, reason);
	longjmp(guard->env, 1);
}

void glue_leave_if_lost(void)
{
	struct glue_guard *guard = glue_guard_top;
	if (glue_is_lost(guard->node)) {
		glue_guard_top = guard->outer;
		longjmp(guard->env, 1);
	}
}

void dqlite_fail(const char *assertion, const char *file, unsigned line, const char *function)
{
	char reason[GLUE_ERRMSG_SIZE];
	const char *base = strrchr(file, '/');
	snprintf(reason, sizeof reason, "assertion failed in the engine: %s (%s:%u, %s)", assertion,
		 base != NULL ? base + 1 : file, line, function);
	lose(reason);
}

/* libuv's assertions; SQLite and lz4 are built without. */
void __wrap___assert_fail(const char *assertion, const char *file, unsigned line, const char *function)
{
	dqlite_fail(assertion, file, line, function);
}

void __wrap_abort(void)
{
	lose("the engine called abort()");
}

/*
 * Stands in for getenv in tracing.c. With LIBDQLITE_TRACE in its environment a host would find the engine's trace in its
 * stderr.
 */
char *glue_getenv(const char *name);
char *glue_getenv(const char *name)
{
	(void)name;
	return NULL;
}

/*
 * libuv's destructor joins its pool: a forked child that calls exit() would join threads that do not exist, and exit() of
 * the host would wait for a running statement. The process is ending: there is nothing to clean up.
 */
void __wrap_uv__threadpool_cleanup(void);
void __wrap_uv__threadpool_cleanup(void)
{
}
