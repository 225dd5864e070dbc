/*
 * Memory for when there is none: a few MB of addresses, which become memory when they are used.
 *
 * Rust ends the process where an allocation fails, and so does the C library where it cannot note what a thread has to do at
 * its end. So small allocations of Rust's, and tiny ones of everybody in this library, are served from here when malloc has
 * nothing. SQLite's pages, results, parameters are not: they end their statement or call, as ever (src/memory.rs). While
 * something lies here and memory has not come back, no new call is let in (src/ffi/guard.rs), so that it lasts.
 *
 * Stands in for malloc, calloc, realloc, free and malloc_usable_size in all of the library, and for __cxa_thread_atexit_impl.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

enum {
	SIZE = 8 << 20,
	UNIT = 128, /* the strictest alignment that is asked for */
	UNITS = SIZE / UNIT,
	TINY = 4096, /* less than a page with what SQLite notes of it */
};

static char region[SIZE] __attribute__((aligned(4096)));
static uint64_t taken[UNITS / 64];
static uint16_t lengths[UNITS];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
unsigned glue_reserve_used;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
void __real_free(void *block);
size_t __real_malloc_usable_size(void *block);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
void __wrap_free(void *block);
size_t __wrap_malloc_usable_size(void *block);
int __wrap___cxa_thread_atexit_impl(void (*run)(void *), void *object, void *library);

static bool is_ours(const void *block)
{
	return (uintptr_t)block - (uintptr_t)region < SIZE;
}

static unsigned unit_of(const void *block)
{
	return (unsigned)(((const char *)block - region) / UNIT);
}

/* Where the first run of so many free units begins; UNITS if there is none. */
static unsigned find(unsigned units)
{
	unsigned unit = 0, run = 0;
	while (unit < UNITS && run < units) {
		uint64_t word = taken[unit / 64] >> unit % 64;
		unsigned left = 64 - unit % 64;
		if (word & 1) {
			unsigned full = word == UINT64_MAX ? 64 : (unsigned)__builtin_ctzll(~word);
			run = 0;
			unit += full < left ? full : left;
		} else {
			unsigned empty = word == 0 ? 64 : (unsigned)__builtin_ctzll(word);
			empty = empty < left ? empty : left;
			run += empty;
			unit += empty;
		}
	}
	return run >= units ? unit - run : UNITS;
}

static void turn(unsigned first, unsigned units)
{
	for (unsigned unit = first; unit < first + units; unit++) {
		taken[unit / 64] ^= (uint64_t)1 << unit % 64;
	}
}

void *glue_reserve_take(size_t size, unsigned percent)
{
	unsigned units = (unsigned)((size + UNIT - 1) / UNIT);
	units = units > 0 ? units : 1;
	void *block = NULL;
	pthread_mutex_lock(&mutex);
	unsigned used = __atomic_load_n(&glue_reserve_used, __ATOMIC_RELAXED);
	if (CURE_RESERVE && size < SIZE / 8 && used + units <= UNITS / 100 * percent) {
		unsigned first = find(units);
		if (first < UNITS) {
			turn(first, units);
			lengths[first] = (uint16_t)units;
			block = region + (size_t)first * UNIT;
			__atomic_store_n(&glue_reserve_used, used + units, __ATOMIC_RELAXED);
		}
	}
	pthread_mutex_unlock(&mutex);
	return block;
}

static void give_back(void *block)
{
	unsigned first = unit_of(block);
	pthread_mutex_lock(&mutex);
	turn(first, lengths[first]);
	__atomic_fetch_sub(&glue_reserve_used, lengths[first], __ATOMIC_RELAXED);
	pthread_mutex_unlock(&mutex);
}

/* What a thread of the parent was taking or giving back just then nobody here has: at worst it is lost to this process. */
void glue_reserve_in_child(void)
{
	mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}

/* For tiny ones of the C sources; Rust's have all of it, for they cannot fail. */
static __attribute__((noinline, cold)) void *tiny(size_t size)
{
	return size <= TINY ? glue_reserve_take(size, 50) : NULL;
}

void *__wrap_malloc(size_t size)
{
	void *block = __real_malloc(size);
	return block != NULL ? block : tiny(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
	void *block = __real_calloc(count, size);
	size_t whole;
	if (block == NULL && !__builtin_mul_overflow(count, size, &whole) && (block = tiny(whole)) != NULL) {
		memset(block, 0, whole);
	}
	return block;
}

/* One of the two blocks is of the reserve. */
static __attribute__((noinline, cold)) void *carry(void *block, size_t had, size_t size)
{
	if (is_ours(block) && size > 0 && size <= had) {
		return block;
	}
	void *other = size > 0 ? (is_ours(block) ? __wrap_malloc(size) : tiny(size)) : NULL;
	if (other != NULL) {
		memcpy(other, block, had < size ? had : size);
	}
	if (other != NULL || size == 0) {
		__wrap_free(block);
	}
	return other;
}

void *__wrap_realloc(void *block, size_t size)
{
	if (is_ours(block)) {
		return carry(block, (size_t)lengths[unit_of(block)] * UNIT, size);
	}
	void *other = __real_realloc(block, size);
	if (other == NULL && size > 0) {
		return block != NULL ? carry(block, __real_malloc_usable_size(block), size) : tiny(size);
	}
	return other;
}

void __wrap_free(void *block)
{
	if (__builtin_expect(is_ours(block), 0)) {
		give_back(block);
	} else {
		__real_free(block);
	}
}

size_t __wrap_malloc_usable_size(void *block)
{
	return is_ours(block) ? (size_t)lengths[unit_of(block)] * UNIT : __real_malloc_usable_size(block);
}

/* For the host, who gives it back himself. */
void *glue_host_malloc(size_t size)
{
	return __real_malloc(size);
}

bool glue_reserve_is_ours(const void *block)
{
	return is_ours(block);
}

bool glue_memory_has(size_t size)
{
	void *volatile block = __real_malloc(size);
	__real_free(block);
	return block != NULL;
}

/* ---- what a thread has to do at its end ---- */

struct ending {
	struct ending *next;
	void (*run)(void *);
	void *object;
};

/* The endings of this thread, the last one first. The one without a function says that the thread is ready. */
static pthread_key_t endings;
static bool has_endings;

static void end_thread(void *list)
{
	for (struct ending *ending = list; ending != NULL;) {
		struct ending *next = ending->next;
		if (ending->run != NULL) {
			ending->run(ending->object);
		}
		__wrap_free(ending);
		ending = next;
	}
}

static void __attribute__((constructor)) open_endings(void)
{
	has_endings = pthread_key_create(&endings, end_thread) == 0;
}

/* Without memory it is left out: what would have been freed then is little. */
int __wrap___cxa_thread_atexit_impl(void (*run)(void *), void *object, void *library)
{
	(void)library;
	struct ending *ending = has_endings ? __wrap_malloc(sizeof *ending) : NULL;
	if (ending != NULL) {
		*ending = (struct ending){ pthread_getspecific(endings), run, object };
		if (pthread_setspecific(endings, ending) != 0) {
			__wrap_free(ending);
		}
	}
	return 0;
}

/*
 * Whether this thread may use its own variables. Where the library came by dlopen, the C library makes them when one is first
 * looked at, and without memory for that it ends the process.
 */
bool glue_thread_is_ready(void)
{
	return (has_endings && pthread_getspecific(endings) != NULL) || glue_thread_make_ready();
}

bool glue_thread_make_ready(void)
{
	enum { MORE_THAN_THEY_TAKE = 8192 };
	if (!glue_memory_has(MORE_THAN_THEY_TAKE)) {
		return false;
	}
	struct glue_guard *volatile first_look = glue_guard_top;
	(void)first_look;
	__wrap___cxa_thread_atexit_impl(NULL, NULL, NULL);
	return true;
}
