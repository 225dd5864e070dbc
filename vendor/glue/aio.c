/*
 * Stand in for the calls of Linux AIO in uv_fs.c and uv_writer.c.
 *
 * To destroy a context takes the kernel 20 to 40 ms, in which it waits for all processors to come by. The engine does that
 * in every start, and on its loop each time that a segment of the log is full. Here a context without a write under way is
 * kept for the next one who asks; a handful is enough for a process.
 */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>

#include "raft/uv_os.h"

/* The engine submits one write at a time to each context. */
enum { MOST_EVENTS = 1, CONTEXTS = 64 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct context {
	aio_context_t aio; /* 0: none */
	bool taken;
	long under_way;
} contexts[CONTEXTS];

/* With the mutex held: the context's place, with 0 a place for a new one; NULL if there is none. */
static struct context *find(aio_context_t aio)
{
	for (int i = 0; i < CONTEXTS; i++) {
		if (contexts[i].aio == aio) {
			return &contexts[i];
		}
	}
	return NULL;
}

static int reuse(aio_context_t *aio)
{
	for (int i = 0; i < CONTEXTS; i++) {
		if (contexts[i].aio != 0 && !contexts[i].taken) {
			contexts[i].taken = true;
			*aio = contexts[i].aio;
			return 0;
		}
	}
	return -ENOENT;
}

int glue_io_setup(unsigned events, aio_context_t *aio);
int glue_io_setup(unsigned events, aio_context_t *aio)
{
	if (events > MOST_EVENTS) {
		return UvOsIoSetup(events, aio);
	}
	pthread_mutex_lock(&mutex);
	int rv = reuse(aio);
	if (rv != 0) {
		rv = UvOsIoSetup(events, aio);
		struct context *place = rv == 0 ? find(0) : NULL;
		if (place != NULL) {
			*place = (struct context){ .aio = *aio, .taken = true };
		}
	}
	pthread_mutex_unlock(&mutex);
	return rv;
}

static void count(aio_context_t aio, long more)
{
	pthread_mutex_lock(&mutex);
	struct context *context = find(aio);
	if (context != NULL) {
		context->under_way += more;
	}
	pthread_mutex_unlock(&mutex);
}

int glue_io_submit(aio_context_t aio, long n, struct iocb **requests);
int glue_io_submit(aio_context_t aio, long n, struct iocb **requests)
{
	count(aio, n);
	int rv = UvOsIoSubmit(aio, n, requests);
	if (rv != 0) {
		count(aio, -n);
	}
	return rv;
}

int glue_io_getevents(aio_context_t aio, long least, long most, struct io_event *events, struct timespec *timeout);
int glue_io_getevents(aio_context_t aio, long least, long most, struct io_event *events, struct timespec *timeout)
{
	int n = UvOsIoGetevents(aio, least, most, events, timeout);
	if (n > 0) {
		count(aio, -n);
	}
	return n;
}

int glue_io_destroy(aio_context_t aio);
int glue_io_destroy(aio_context_t aio)
{
	pthread_mutex_lock(&mutex);
	struct context *context = find(aio);
	bool keep = context != NULL && context->under_way == 0;
	if (keep) {
		context->taken = false;
	} else if (context != NULL) {
		/* The memory that it writes from goes away with it: it has to come to its end now. */
		*context = (struct context){ 0 };
	}
	pthread_mutex_unlock(&mutex);
	return keep ? 0 : UvOsIoDestroy(aio);
}
