/* Wrong on purpose, and only where a sanitizer watches; src/engine/wrong.rs says what for. */
#ifdef DQLITEPY_SANITIZED
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>

enum { HEAP, RACE, UNDEFINED, UNSET };

void glue_wrong(int kind);

static long raced;

static void *race(void *unused)
{
	raced++;
	return unused;
}

void glue_wrong(int kind)
{
	volatile int number = INT_MAX;
	pthread_t other;
	/* Of a size that the compiler does not know: the other sanitizer would see it first. */
	volatile size_t size = 40;
	volatile unsigned char *bytes = malloc(size);
	if (bytes == NULL)
		return;
	switch (kind) {
	case HEAP:
		number = bytes[40 + (number != INT_MAX)];
		break;
	case RACE:
		if (pthread_create(&other, NULL, race, NULL) == 0) {
			race(NULL);
			pthread_join(other, NULL);
		}
		break;
	case UNDEFINED:
		number = number + kind;
		break;
	case UNSET:
		if (bytes[7] == 77)
			number = 0;
		break;
	}
	free((void *)bytes);
}
#endif
