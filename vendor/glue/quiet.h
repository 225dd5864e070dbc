/*
 * Included in front of every file of the engine. It keeps a record of what it did last, for a report that it prints when it
 * crashes; here it does not crash, and nobody reads it. Each entry costs a system call, 45 of them an INSERT.
 */
#include "tracing.h"
#undef CRASH_TRACE
#define CRASH_TRACE(...)                                                                                               \
	do {                                                                                                           \
	} while (0)
