#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "bench.h"

enum { LEADERLESS_TRIES = 1000, LEADERLESS_PAUSE_US = 2000, HIGHEST_FD = 256 };
enum { FAILURE = 0, OPEN = 3, DB = 4, ROWS = 7 };

static void begin(struct wire *wire, const struct sockaddr *address, socklen_t size)
{
	uint64_t version = 1;
	if (wire->fd < 0 || connect(wire->fd, address, size) != 0) {
		die("connect", "nobody listens there");
	}
	wire->room = 4 << 20;
	wire->buffer = malloc(wire->room);
	if (wire->buffer == NULL || send(wire->fd, &version, sizeof version, MSG_NOSIGNAL) != sizeof version) {
		die("connect", "the version word was not taken");
	}
}

bool wire_connect_local(struct wire *wire)
{
	/* The kernel chose the name of the engine's abstract socket; the descriptor is in this process. */
	for (int fd = 3; fd < HIGHEST_FD; fd++) {
		struct sockaddr_un address;
		socklen_t size = sizeof address;
		int listens = 0;
		socklen_t listens_size = sizeof listens;
		if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &listens_size) == 0 && listens != 0 &&
		    getsockname(fd, (struct sockaddr *)&address, &size) == 0 && address.sun_family == AF_UNIX &&
		    size > sizeof address.sun_family && address.sun_path[0] == '\0') {
			wire->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
			begin(wire, (struct sockaddr *)&address, size);
			return true;
		}
	}
	return false;
}

void wire_connect(struct wire *wire, const char *text)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	char host[64];
	unsigned port;
	int on = 1;
	if (sscanf(text, "%63[0-9.]:%u", host, &port) != 2 || inet_pton(AF_INET, host, &address.sin_addr) != 1) {
		die(text, "not an address such as 127.0.0.1:9001");
	}
	address.sin_port = htons((uint16_t)port);
	wire->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(wire->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	begin(wire, (struct sockaddr *)&address, sizeof address);
}

static void put_text(struct request *request, const char *text)
{
	size_t size = strlen(text) + 1, padded = (size + 7) / 8 * 8;
	if (request->size + padded > sizeof request->bytes) {
		die("request", "the statement is too long");
	}
	memset(request->bytes + request->size, 0, padded);
	memcpy(request->bytes + request->size, text, size);
	request->size += padded;
}

static void put_word(struct request *request, uint64_t word)
{
	memcpy(request->bytes + request->size, &word, sizeof word);
	request->size += sizeof word;
}

static void put_header(struct request *request, int type)
{
	uint32_t words = (uint32_t)(request->size / 8 - 1);
	memset(request->bytes, 0, 8);
	memcpy(request->bytes, &words, sizeof words);
	request->bytes[4] = (char)type;
}

void wire_request(struct request *request, int type, const char *sql)
{
	request->size = 8;
	put_word(request, 0);
	put_text(request, sql);
	put_header(request, type);
}

static void receive(struct wire *wire, size_t size)
{
	for (size_t got = 0; got < size;) {
		ssize_t n = recv(wire->fd, wire->buffer + got, size - got, 0);
		if (n <= 0) {
			die("recv", "the node closed the connection");
		}
		got += (size_t)n;
	}
}

/* The type of the next message; its body is in the buffer. */
static int answer(struct wire *wire, size_t *size)
{
	uint32_t words;
	receive(wire, 8);
	int type = (unsigned char)wire->buffer[4];
	memcpy(&words, wire->buffer, sizeof words);
	*size = (size_t)words * 8;
	if (*size > wire->room) {
		wire->room = *size * 2;
		wire->buffer = realloc(wire->buffer, wire->room);
		if (wire->buffer == NULL) {
			die("answer", "out of memory");
		}
	}
	receive(wire, *size);
	return type;
}

static void transmit(struct wire *wire, const struct request *request)
{
	if (send(wire->fd, request->bytes, request->size, MSG_NOSIGNAL) != (ssize_t)request->size) {
		die("send", "the node took only a part");
	}
}

void wire_open(struct wire *wire, const char *database)
{
	struct request request = { .size = 8 };
	size_t size;
	put_text(&request, database);
	put_word(&request, 0);
	put_text(&request, "volatile");
	put_header(&request, OPEN);
	for (int i = 0; i < LEADERLESS_TRIES; i++) {
		transmit(wire, &request);
		if (answer(wire, &size) == DB) {
			return;
		}
		usleep(LEADERLESS_PAUSE_US);
	}
	die("open", wire->buffer + 8);
}

void wire_call(struct wire *wire, const struct request *request)
{
	uint64_t last;
	size_t size;
	transmit(wire, request);
	do {
		int type = answer(wire, &size);
		if (type == FAILURE) {
			die("the floor's request failed", wire->buffer + 8);
		}
		if (type != ROWS) {
			return;
		}
		memcpy(&last, wire->buffer + size - 8, sizeof last);
	} while (last != UINT64_MAX);
}

void wire_close(struct wire *wire)
{
	close(wire->fd);
	free(wire->buffer);
}
