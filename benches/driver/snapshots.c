/* How long the engine writes a snapshot: from the first name of it that appears in the directory to the last one. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "bench.h"

enum { LOOK_MS = 20 };

static bool ends_with(const char *text, const char *end)
{
	size_t length = strlen(text), of_end = strlen(end);
	return length >= of_end && strcmp(text + length - of_end, end) == 0;
}

/* The engine names the description (.meta) first and the data behind it, each when all of it is on the disk. */
static void note(struct snapshots *found, const char *name)
{
	if (strncmp(name, "snapshot-", 9) != 0) {
		return;
	}
	if (ends_with(name, ".meta")) {
		found->began = now();
	} else if (found->began > 0) {
		found->last = now() - found->began;
		found->longest = found->last > found->longest ? found->last : found->longest;
		found->began = 0;
		found->count++;
	}
}

static void *watch_main(void *arg)
{
	struct snapshots *found = arg;
	char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	while (!atomic_load(&found->ends)) {
		struct pollfd look = { .fd = found->fd, .events = POLLIN };
		if (poll(&look, 1, LOOK_MS) <= 0) {
			continue;
		}
		ssize_t size = read(found->fd, buffer, sizeof buffer);
		pthread_mutex_lock(&found->lock);
		for (char *at = buffer; size > 0 && at < buffer + size;) {
			struct inotify_event *event = (struct inotify_event *)at;
			note(found, event->len > 0 ? event->name : "");
			at += sizeof *event + event->len;
		}
		pthread_mutex_unlock(&found->lock);
	}
	return NULL;
}

void snapshots_watch(struct snapshots *found, const char *dir)
{
	*found = (struct snapshots){ .fd = inotify_init1(IN_CLOEXEC) };
	pthread_mutex_init(&found->lock, NULL);
	if (found->fd < 0 || inotify_add_watch(found->fd, dir, IN_MOVED_TO | IN_CLOSE_WRITE) < 0 ||
	    pthread_create(&found->thread, NULL, watch_main, found) != 0) {
		die("snapshots", "the directory cannot be watched");
	}
}

void snapshots_print(struct snapshots *found, const char *extra)
{
	pthread_mutex_lock(&found->lock);
	printf("snapshots%s count=%d last_us=%.0f longest_us=%.0f\n", extra, found->count, found->last * 1e6, found->longest * 1e6);
	found->count = 0;
	found->longest = 0;
	pthread_mutex_unlock(&found->lock);
}

void snapshots_end(struct snapshots *found)
{
	atomic_store(&found->ends, true);
	pthread_join(found->thread, NULL);
	close(found->fd);
}
