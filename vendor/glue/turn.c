/*
 * Requests of this process, on the thread of whoever makes them.
 *
 * Between a caller and the loop's thread lie two wake-ups. On a machine at rest each of them takes longer than the engine
 * needs for a short statement. So the loop's callbacks belong to no thread: whoever has the turn may run them. The loop's
 * thread gives it away while it sleeps in epoll_pwait, and takes it back as soon as there is something to do. A caller who
 * finds the loop asleep hands his request to its connection as if it had been read from the socket, and takes what the
 * engine answers at once. What does not end at once, a long statement or a write to a disk, goes on as ever, and its answer
 * comes by the socket.
 *
 * So on a caller's thread everything holds that holds on the loop's: assertions end in a guard, signals of the host are
 * blocked, and there has to be as much stack as SQLite may need.
 *
 * Stands in for uv_write in lib/transport.c, and for epoll_pwait in libuv.
 */
#include <errno.h>
#include <fenv.h>
#include <limits.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>

#include "internal.h"

#include "protocol.h"
#include "raft.h"
#include "server.h"

/*
 * What SQLite may need of it: 3 MB were seen for a LIKE with all the wildcards that a pattern may have, and half of one for
 * the deepest expression.
 */
enum { STACK_NEEDED = 4 << 20 };
/* A longer text takes longer to compile than the wake-ups take. */
enum { LONGEST_REQUEST = 64 << 10 };
/* Some microseconds for a turn that ends just now; then it is slept for. */
enum { SPINS = 50, LONGEST_WAIT_NS = 1000 * 1000 };

struct exchange {
	uv_stream_t *stream;
	uint8_t *answer;
	size_t room, filled;
	/* An answer was taken, and the engine not told yet. */
	uv_write_t *write;
	uv_write_cb written;
	bool jobs_done;
};

/* The one that this thread is in the middle of. */
static __thread struct exchange *exchange;
/* The loop whose thread this is. */
static __thread struct glue_turn *own_turn;
/* An assertion struck in the middle of an exchange: what the glue keeps for this thread may be half done. */
static __thread bool spoiled;

void glue_turn_open(struct glue_turn *turn)
{
	pthread_mutex_init(&turn->mutex, NULL);
	atomic_init(&turn->loop_runs, true);
}

void glue_turn_close(struct glue_turn *turn)
{
	pthread_mutex_destroy(&turn->mutex);
}

void glue_turn_begin(struct glue_turn *turn, uv_loop_t *loop)
{
	pthread_mutex_lock(&turn->mutex);
	turn->loop = loop;
	turn->nice = getpriority(PRIO_PROCESS, 0); /* of this thread, in spite of the name */
	own_turn = turn;
}

/* The loop counts as running from here on, so nobody begins anything any more. */
void glue_turn_end(struct glue_turn *turn)
{
	own_turn = NULL;
	pthread_mutex_unlock(&turn->mutex);
}

static void sleep_until(struct glue_turn *turn, uint64_t then)
{
	turn->sleeps_until = then;
	atomic_store(&turn->loop_runs, false);
	pthread_mutex_unlock(&turn->mutex);
}

static void wake_up(struct glue_turn *turn)
{
	atomic_store(&turn->loop_runs, true);
	pthread_mutex_lock(&turn->mutex);
	glue_leave_if_lost();
}

int __real_epoll_pwait(int epfd, struct epoll_event *events, int n, int timeout, const sigset_t *mask);
int __wrap_epoll_pwait(int epfd, struct epoll_event *events, int n, int timeout, const sigset_t *mask);
int __wrap_epoll_pwait(int epfd, struct epoll_event *events, int n, int timeout, const sigset_t *mask)
{
	struct glue_turn *turn = own_turn;
	if (turn == NULL || timeout == 0) {
		return __real_epoll_pwait(epfd, events, n, timeout, mask);
	}
	sleep_until(turn, timeout < 0 ? UINT64_MAX : uv_now(turn->loop) + (uint64_t)timeout);
	int rv = __real_epoll_pwait(epfd, events, n, timeout, mask);
	int failure = errno;
	wake_up(turn);
	errno = failure;
	return rv;
}

static void pause_processor(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ __volatile__("yield");
#endif
}

/* libuv looks at its timers and at what it has to tell the kernel only when it runs. */
static void wake_loop_if_due(struct glue_turn *turn)
{
	int timeout = uv_backend_timeout(turn->loop);
	if (timeout == 0 || (timeout > 0 && uv_now(turn->loop) + (uint64_t)timeout < turn->sleeps_until)) {
		glue_loop_wake(glue_loop_here());
	}
}

int glue_conn_write(uv_write_t *req, uv_stream_t *stream, const uv_buf_t bufs[], unsigned n, uv_write_cb cb);
int glue_conn_write(uv_write_t *req, uv_stream_t *stream, const uv_buf_t bufs[], unsigned n, uv_write_cb cb)
{
	struct exchange *own = exchange;
	bool fits = own != NULL && own->stream == stream && own->write == NULL && n == 1 &&
		    bufs[0].len <= own->room - own->filled;
	if (!fits) {
		if (own != NULL && own->stream == stream) {
			/* What further comes is behind that. */
			own->room = own->filled;
		}
		return uv_write(req, stream, bufs, n, cb);
	}
	memcpy(own->answer + own->filled, bufs[0].base, bufs[0].len);
	own->filled += bufs[0].len;
	own->write = req;
	own->written = cb;
	return 0;
}

bool glue_turn_is_borrowed(void)
{
	return exchange != NULL;
}

bool glue_turn_takes_jobs(void)
{
	if (exchange != NULL) {
		exchange->jobs_done = true;
	}
	return exchange != NULL;
}

/* What the engine expects to be called for later, by its loop. */
static void call_back(struct exchange *own, struct glue_turn *turn)
{
	while (own->write != NULL || own->jobs_done) {
		if (own->write != NULL) {
			uv_write_t *write = own->write;
			own->write = NULL;
			own->written(write, 0);
		}
		if (own->jobs_done) {
			own->jobs_done = false;
			glue_pool_look(turn->loop);
		}
	}
}

/* Whether a whole request of these bytes is one that may be done here: the rest is rare, and some of it takes long. */
static bool is_statement(const uint8_t *request, size_t size)
{
	uint32_t words;
	if (size < 16 || size > LONGEST_REQUEST) {
		return false;
	}
	memcpy(&words, request, sizeof words);
	switch (request[4]) {
	case DQLITE_REQUEST_PREPARE:
	case DQLITE_REQUEST_EXEC:
	case DQLITE_REQUEST_QUERY:
	case DQLITE_REQUEST_FINALIZE:
	case DQLITE_REQUEST_EXEC_SQL:
	case DQLITE_REQUEST_QUERY_SQL:
		return size == 8 + (size_t)words * 8;
	default:
		return false;
	}
}

/* What is to be known of the thread; looked up once. */
struct standing {
	uintptr_t low, high; /* its stack */
	int nice;	     /* higher: it waits longer for a processor */
};

static struct standing look_up(void)
{
	struct standing standing = { .low = 1, .high = 1, .nice = getpriority(PRIO_PROCESS, 0) };
	pthread_attr_t attr;
	void *base;
	size_t size;
	if (pthread_getattr_np(pthread_self(), &attr) == 0) {
		if (pthread_attr_getstack(&attr, &base, &size) == 0) {
			standing.low = (uintptr_t)base;
			standing.high = standing.low + size;
		}
		pthread_attr_destroy(&attr);
	}
	int policy = sched_getscheduler(0);
	if (policy == SCHED_IDLE || policy == SCHED_BATCH) {
		standing.nice = INT_MAX;
	}
	return standing;
}

/*
 * There has to be stack; on one that a host has made for itself its end is unknown. And the loop must not wait for a thread
 * that hardly ever gets a processor.
 */
static bool is_fit(const struct glue_turn *turn)
{
	static __thread struct standing standing;
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);
	if (standing.high == 0) {
		standing = look_up();
	}
	return here > standing.low && here < standing.high && here - standing.low >= STACK_NEEDED &&
	       standing.nice <= turn->nice;
}

/* What a thread of the engine has all the time. */
struct shelter {
	sigset_t mask;
	int cancel;
	fenv_t floats;
};

static void enter_shelter(struct shelter *shelter)
{
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &shelter->cancel);
	glue_mask_signals(&shelter->mask);
	fegetenv(&shelter->floats);
	fesetenv(FE_DFL_ENV);
}

/* What is raised by a write to somebody who is gone, or beyond the limit for files, is for us and not for the host. */
static void leave_shelter(const struct shelter *shelter)
{
	static const int own[] = { SIGPIPE, SIGXFSZ };
	sigset_t raised;
	sigemptyset(&raised);
	for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
		if (!sigismember(&shelter->mask, own[i])) {
			sigaddset(&raised, own[i]);
		}
	}
	while (sigtimedwait(&raised, NULL, &(struct timespec){ 0, 0 }) > 0) {
	}
	fesetenv(&shelter->floats);
	pthread_sigmask(SIG_SETMASK, &shelter->mask, NULL);
	pthread_setcancelstate(shelter->cancel, NULL);
}

/*
 * Other callers have it for microseconds, and to wait for them costs less than the socket. The loop's own thread may have it
 * for long.
 */
static bool take_turn(struct glue_turn *turn)
{
	for (int i = 0; i < SPINS && !atomic_load(&turn->loop_runs); i++) {
		if (pthread_mutex_trylock(&turn->mutex) == 0) {
			return true;
		}
		pause_processor();
	}
	if (atomic_load(&turn->loop_runs)) {
		return false;
	}
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += LONGEST_WAIT_NS;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	return pthread_mutex_timedlock(&turn->mutex, &until) == 0;
}

/* With the turn. False: nothing of it has happened. */
static bool ask(struct glue_node *node, struct glue_path *path, const uint8_t *request, size_t size, struct exchange *own)
{
	struct glue_turn *turn = glue_turn_of(node);
	struct glue_guard guard;
	if (glue_is_lost(node) || !glue_path_is_quiet(path)) {
		return false;
	}
	if (GLUE_GUARDED(&guard, node)) {
		uv_update_time(turn->loop);
		own->stream = glue_path_stream(path);
		exchange = own;
		glue_path_hear(path, request, size);
		call_back(own, turn);
		wake_loop_if_due(turn);
		glue_guard_leave(&guard);
	} else {
		/* The loop's thread learns of it, as from a thread of the pool. */
		spoiled = true;
		own->filled = 0;
		glue_pool_tell(glue_pool_of(turn->loop));
	}
	exchange = NULL;
	return true;
}

bool glue_node_ask(struct glue_node *node,
		   struct glue_path *path,
		   const uint8_t *request,
		   size_t size,
		   uint8_t *answer,
		   size_t *room)
{
	struct glue_turn *turn = glue_turn_of(node);
	struct exchange own = { .answer = answer, .room = *room };
	struct shelter shelter;
	if (spoiled || exchange != NULL || atomic_load(&turn->loop_runs) || !is_statement(request, size) || !is_fit(turn)) {
		return false;
	}
	enter_shelter(&shelter);
	bool asked = false;
	if (take_turn(turn)) {
		asked = ask(node, path, request, size, &own);
		pthread_mutex_unlock(&turn->mutex);
	}
	leave_shelter(&shelter);
	*room = own.filled;
	return asked;
}
