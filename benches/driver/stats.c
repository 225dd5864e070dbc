#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

static double seconds_of(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

double now(void)
{
	return seconds_of(CLOCK_MONOTONIC);
}

double cpu_time(void)
{
	return seconds_of(CLOCK_PROCESS_CPUTIME_ID);
}

void timing_add(struct timing *timing, double seconds)
{
	if (timing->count == timing->room) {
		timing->room = timing->room != 0 ? timing->room * 2 : 1024;
		timing->seconds = realloc(timing->seconds, timing->room * sizeof *timing->seconds);
		if (timing->seconds == NULL) {
			die("timing", "out of memory");
		}
	}
	timing->seconds[timing->count++] = seconds;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

void timing_print(struct timing *timing, const char *name, const char *who, const char *extra)
{
	size_t n = timing->count;
	if (n > 0) {
		double *s = timing->seconds;
		qsort(s, n, sizeof *s, ascending);
		printf("call=%s who=%s n=%zu min_us=%.2f p50_us=%.2f p90_us=%.2f p99_us=%.2f max_us=%.2f ops_s=%.1f cpu_us=%.2f%s\n", name,
		       who, n, s[0] * 1e6, s[n / 2] * 1e6, s[n * 9 / 10] * 1e6, s[n * 99 / 100] * 1e6, s[n - 1] * 1e6, n / timing->wall,
		       timing->cpu / n * 1e6, extra);
		fflush(stdout);
	}
	free(timing->seconds);
	*timing = (struct timing){ 0 };
}

long process_status(const char *key)
{
	FILE *file = fopen("/proc/self/status", "r");
	char line[256];
	long value = -1;
	size_t size = strlen(key);
	while (file != NULL && fgets(line, sizeof line, file) != NULL) {
		if (strncmp(line, key, size) == 0 && line[size] == ':') {
			value = atol(line + size + 1);
		}
	}
	if (file != NULL) {
		fclose(file);
	}
	return value;
}

void peak_memory_reset(void)
{
	int fd = open("/proc/self/clear_refs", O_WRONLY);
	if (fd < 0 || write(fd, "5", 1) != 1) {
		die("clear_refs", "the kernel does not reset the peak of this process's memory");
	}
	close(fd);
}

void die(const char *what, const char *why)
{
	fprintf(stderr, "driver: %s: %s\n", what, why);
	exit(1);
}
