/*
 * The engine's SQL steps and its dialling, on threads of the node's own.
 *
 * libuv's pool has four threads for the whole process: four long statements on one node would stop every other node. Here
 * a thread is added whenever a job finds none idle, up to a bound that no sane load reaches.
 */
#include <errno.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/vfs.h>
#include <time.h>

#include "internal.h"

#include "raft/uv_writer.h"

enum { MAX_THREADS = 256, IDLE_SECONDS = 10, MOST_WRITTEN_HERE = 256 << 10 };

/*
 * Fields that libuv reserves in each request, so that queueing allocates nothing: the next job, whose past it belongs to,
 * and how long it took; for jobs of libuv's own threads, what they run and what comes behind it.
 */
enum { NEXT, PAST, TOOK, RUN, AFTER };

struct list {
	uv_work_t *head, *tail;
};

struct glue_pool {
	struct glue_node *node;
	pthread_mutex_t mutex;
	pthread_cond_t wake; /* for idle threads */
	pthread_cond_t left; /* for the owner that waits in close */
	uv_async_t done_signal;
	struct list todo, done;
	unsigned threads, idle, queued;
	unsigned wanted; /* threads that the loop's own has to start */
	unsigned outstanding; /* with the turn (turn.c) */
	bool closing;
	struct glue_quick quick; /* the same */
	uint64_t last_segment;
};

static void list_push(struct list *list, uv_work_t *work)
{
	work->reserved[NEXT] = NULL;
	if (list->tail != NULL) {
		list->tail->reserved[NEXT] = work;
	} else {
		list->head = work;
	}
	list->tail = work;
}

static uv_work_t *list_pop(struct list *list)
{
	uv_work_t *work = list->head;
	if (work != NULL) {
		list->head = work->reserved[NEXT];
		if (list->head == NULL) {
			list->tail = NULL;
		}
	}
	return work;
}

/* With the mutex held: the next job, or NULL when this thread has been idle for long or the pool closes. */
static uv_work_t *next_job(struct glue_pool *pool)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += IDLE_SECONDS;
	int rv = 0;
	pool->idle++;
	while (pool->todo.head == NULL && !pool->closing && rv != ETIMEDOUT) {
		rv = pthread_cond_timedwait(&pool->wake, &pool->mutex, &until);
	}
	pool->idle--;
	uv_work_t *work = list_pop(&pool->todo);
	if (work != NULL) {
		pool->queued--;
	}
	return work;
}

/* False if an assertion struck: the engine must not hear of this job again. */
static bool run_guarded(struct glue_pool *pool, uv_work_t *work)
{
	struct glue_guard guard;
	if (!GLUE_GUARDED(&guard, pool->node)) {
		return false;
	}
	uint64_t began = uv_hrtime();
	work->work_cb(work);
	work->reserved[TOOK] = (void *)(uintptr_t)(uv_hrtime() - began);
	glue_guard_leave(&guard);
	return true;
}

static void *pool_thread(void *arg)
{
	struct glue_pool *pool = arg;
	uv_work_t *work;
	pthread_setname_np(pthread_self(), "dqlite-sql");
	pthread_mutex_lock(&pool->mutex);
	while ((work = next_job(pool)) != NULL) {
		pthread_mutex_unlock(&pool->mutex);
		bool finished = run_guarded(pool, work);
		pthread_mutex_lock(&pool->mutex);
		if (pool->closing) {
			/* The loop is gone, and with it whoever waited. */
			break;
		}
		if (finished) {
			list_push(&pool->done, work);
		}
		uv_async_send(&pool->done_signal);
	}
	pool->threads--;
	pthread_cond_signal(&pool->left);
	pthread_mutex_unlock(&pool->mutex);
	return NULL;
}

int glue_thread_attr(pthread_attr_t *attr)
{
	/* Twice what SQLite was seen to take; turn.c asks for half of it. A host may have set less, or no limit, which is 2 MiB. */
	enum { STACK = 8 << 20 };
	size_t usual;
	int rv = pthread_attr_init(attr);
	if (rv == 0 && pthread_attr_getstacksize(attr, &usual) == 0 && usual < STACK) {
		pthread_attr_setstacksize(attr, STACK);
	}
	return rv;
}

/* With the mutex held. */
static int add_thread(struct glue_pool *pool)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t old;
	glue_thread_attr(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	glue_mask_signals(&old);
	int rv = pthread_create(&thread, &attr, pool_thread, pool);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (rv == 0) {
		pool->threads++;
	}
	return rv;
}

/*
 * With the mutex held: the threads that callers could not start. They would be like the host's: its priority, its processors,
 * its rights. A job for which none can be had at all is returned: to do it on
 * the loop's thread is better than never.
 */
static uv_work_t *staff(struct glue_pool *pool)
{
	while (pool->wanted > 0 && pool->threads < MAX_THREADS && add_thread(pool) == 0) {
		pool->wanted--;
	}
	if (pool->wanted == 0 || pool->threads > 0) {
		pool->wanted = 0;
		return NULL;
	}
	if (--pool->wanted > 0) {
		uv_async_send(&pool->done_signal);
	}
	uv_work_t *work = list_pop(&pool->todo);
	pool->queued--;
	work->reserved[TOOK] = NULL;
	return work;
}

static void jobs_done(uv_async_t *signal)
{
	struct glue_pool *pool = signal->data;
	glue_leave_if_lost();
	pthread_mutex_lock(&pool->mutex);
	uv_work_t *alone = glue_turn_is_borrowed() ? NULL : staff(pool);
	struct list done = pool->done;
	pool->done = (struct list){ NULL, NULL };
	pthread_mutex_unlock(&pool->mutex);
	if (alone != NULL) {
		alone->work_cb(alone);
		list_push(&done, alone);
	}

	uv_work_t *work;
	while ((work = list_pop(&done)) != NULL) {
		if (--pool->outstanding == 0) {
			uv_unref((uv_handle_t *)&pool->done_signal);
		}
		if (work->reserved[PAST] != NULL) {
			glue_past_learn(work->reserved[PAST], (uintptr_t)work->reserved[TOOK]);
		}
		work->after_work_cb(work, 0);
	}
}

/* Stands in for uv_queue_work where the engine runs SQL or dials (see build.rs); on the loop's thread. */
int glue_queue_work(uv_loop_t *loop, uv_work_t *work, uv_work_cb run, uv_after_work_cb after);
int glue_queue_work(uv_loop_t *loop, uv_work_t *work, uv_work_cb run, uv_after_work_cb after)
{
	struct glue_pool *pool = glue_pool_of(loop);
	int rv = 0;
	work->work_cb = run;
	work->after_work_cb = after;
	work->reserved[PAST] = pool->quick.learning;
	pthread_mutex_lock(&pool->mutex);
	bool lacks = pool->idle <= pool->queued && pool->threads < MAX_THREADS;
	if (lacks && glue_turn_is_borrowed()) {
		pool->wanted++;
		uv_async_send(&pool->done_signal);
	} else if (lacks) {
		rv = add_thread(pool);
	}
	if (rv == 0 || pool->threads > 0) {
		list_push(&pool->todo, work);
		pool->queued++;
		pthread_cond_signal(&pool->wake);
		rv = 0;
	}
	pthread_mutex_unlock(&pool->mutex);
	if (rv == 0 && pool->outstanding++ == 0) {
		uv_ref((uv_handle_t *)&pool->done_signal);
	}
	return rv == 0 ? 0 : UV_EAGAIN;
}

/* On a thread of libuv's, which has no guard of its own: an assertion there would end the process. */
static void run_on_disk(uv_work_t *work)
{
	struct glue_guard guard;
	if (GLUE_GUARDED(&guard, glue_pool_of(work->loop)->node)) {
		((uv_work_cb)work->reserved[RUN])(work);
		glue_guard_leave(&guard);
	}
}

static void done_on_disk(uv_work_t *work, int status)
{
	glue_leave_if_lost();
	((uv_after_work_cb)work->reserved[AFTER])(work, status);
}

/* Stands in for uv_queue_work where the engine waits for the disk. */
int glue_queue_disk(uv_loop_t *loop, uv_work_t *work, uv_work_cb run, uv_after_work_cb after);
int glue_queue_disk(uv_loop_t *loop, uv_work_t *work, uv_work_cb run, uv_after_work_cb after)
{
	work->reserved[RUN] = (void *)run;
	work->reserved[AFTER] = (void *)after;
	return uv_queue_work(loop, work, run_on_disk, done_on_disk);
}

/*
 * Stands in for uv_queue_work where the log is written and the file system cannot do that by itself. A tmpfs is memory: two
 * wake-ups take several times what the write takes.
 */
int glue_queue_write(uv_loop_t *loop, uv_work_t *work, uv_work_cb run, uv_after_work_cb after);
int glue_queue_write(uv_loop_t *loop, uv_work_t *work, uv_work_cb run, uv_after_work_cb after)
{
	struct UvWriterReq *write = work->data;
	struct statfs fs;
	if (write->len > MOST_WRITTEN_HERE || fstatfs(write->writer->fd, &fs) != 0 || fs.f_type != TMPFS_MAGIC) {
		return glue_queue_disk(loop, work, run, after);
	}
	struct glue_pool *pool = glue_pool_of(loop);
	work->after_work_cb = after;
	work->reserved[PAST] = NULL;
	run(work);
	pthread_mutex_lock(&pool->mutex);
	list_push(&pool->done, work);
	pthread_mutex_unlock(&pool->mutex);
	if (pool->outstanding++ == 0) {
		uv_ref((uv_handle_t *)&pool->done_signal);
	}
	/* The engine does not expect the end of a write before its beginning has returned. */
	if (!glue_turn_takes_jobs()) {
		uv_async_send(&pool->done_signal);
	}
	return 0;
}

void glue_pool_look(uv_loop_t *loop)
{
	jobs_done(&glue_pool_of(loop)->done_signal);
}

void glue_pool_tell(struct glue_pool *pool)
{
	uv_async_send(&pool->done_signal);
}

struct glue_quick *glue_quick_of(uv_loop_t *loop)
{
	return &glue_pool_of(loop)->quick;
}

uint64_t *glue_last_segment_of(uv_loop_t *loop)
{
	return &glue_pool_of(loop)->last_segment;
}

struct glue_pool *glue_pool_open(struct glue_node *node, uv_loop_t *loop)
{
	struct glue_pool *pool = calloc(1, sizeof *pool);
	if (pool == NULL) {
		return NULL;
	}
	pool->node = node;
	if (uv_async_init(loop, &pool->done_signal, jobs_done) != 0) {
		free(pool);
		return NULL;
	}
	pool->done_signal.data = pool;
	/* Only outstanding jobs keep the loop alive. */
	uv_unref((uv_handle_t *)&pool->done_signal);
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&pool->mutex, NULL);
	pthread_cond_init(&pool->wake, &attr);
	pthread_cond_init(&pool->left, &attr);
	pthread_condattr_destroy(&attr);
	return pool;
}

void glue_pool_detach(struct glue_pool *pool)
{
	pthread_mutex_lock(&pool->mutex);
	pool->closing = true;
	pthread_mutex_unlock(&pool->mutex);
	uv_close((uv_handle_t *)&pool->done_signal, NULL);
}

void glue_pool_close(struct glue_pool *pool, bool wait)
{
	pthread_mutex_lock(&pool->mutex);
	pool->closing = true;
	pthread_cond_broadcast(&pool->wake);
	while (wait && pool->threads > 0) {
		pthread_cond_wait(&pool->left, &pool->mutex);
	}
	pthread_mutex_unlock(&pool->mutex);
	if (wait) {
		pthread_mutex_destroy(&pool->mutex);
		pthread_cond_destroy(&pool->wake);
		pthread_cond_destroy(&pool->left);
		free(pool);
	}
}
