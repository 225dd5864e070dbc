/*
 * Messages to other nodes in parts. libuv refuses to write more than 2 GiB at once, so that a snapshot of more, which is one
 * message, was read from the disk and failed, over and over: no database of that size ever reached another node.
 *
 * The parts are queued at once, because the engine may queue its next message behind them.
 */
#include <stdlib.h>
#include <sys/socket.h>

#include "internal.h"

/* Far below the limit, so that this is the way of every large message. */
enum { PART = 64 << 20 };

/* All but the last part of a message, whose request is the engine's. */
struct parts {
	unsigned left;
	uv_write_t reqs[];
};

/* The parts behind one that failed fail as well, with the heartbeats that follow, and the last one closes the stream. */
static void part_written(uv_write_t *req, int status)
{
	struct parts *parts = req->data;
	uv_os_fd_t fd;
	if (status != 0 && uv_fileno((uv_handle_t *)req->handle, &fd) == 0) {
		shutdown(fd, SHUT_RDWR); /* nothing may go out behind a gap */
	}
	if (--parts->left == 0) {
		free(parts);
	}
}

static unsigned parts_of(const uv_buf_t *buf)
{
	return (unsigned)((buf->len + PART - 1) / PART);
}

/* As uv_write. */
int glue_write_in_parts(uv_write_t *req, uv_stream_t *stream, const uv_buf_t bufs[], unsigned n, uv_write_cb cb)
{
	unsigned count = 0;
	for (unsigned i = 0; i < n; i++) {
		count += parts_of(&bufs[i]);
	}
	if (count <= n) {
		return uv_write(req, stream, bufs, n, cb);
	}
	struct parts *parts = malloc(sizeof *parts + (count - 1) * sizeof parts->reqs[0]);
	if (parts == NULL) {
		return UV_ENOMEM;
	}
	parts->left = count - 1;
	unsigned k = 0;
	int rv = 0;
	for (unsigned i = 0; i < n; i++) {
		for (size_t done = 0; done < bufs[i].len && rv == 0; done += PART, k++) {
			size_t left = bufs[i].len - done;
			uv_buf_t part = uv_buf_init(bufs[i].base + done, (unsigned)(left < PART ? left : PART));
			uv_write_t *next = k == count - 1 ? req : &parts->reqs[k];
			if (next != req) {
				next->data = parts;
			}
			rv = uv_write(next, stream, &part, 1, next == req ? cb : part_written);
		}
	}
	if (rv != 0 && k == 1) {
		free(parts); /* a stream that takes the first takes all of them: one buffer needs no memory */
	}
	return rv;
}
