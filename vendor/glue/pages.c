/*
 * Memory for the pages of databases and of their WALs, in place of SQLite's allocator in vfs.c and where leader.c and
 * unsent.c give such pages back.
 *
 * The engine asks malloc for each page. In a thread's heap that is a system call for every 4 KB that a database grows by, and
 * what malloc got it keeps: after a stop the process was as large as before. Here pages come from blocks of 2 MB that go back
 * when they are empty.
 *
 * And what a database is restored from, at a start or when a leader sent it, is one buffer with all its pages. They were
 * copied out of it, so that there was everything twice. Now they stay there, and the buffer goes with the last of them.
 */
#include <pthread.h>
#include <sqlite3.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "internal.h"

#include "raft.h"
#include "vfs.h"

enum { BLOCK = 2 << 20, LEAST = 512, SIZES = 8 }; /* SQLite's sizes of pages: 512 to 65536 */

struct page {
	struct page *next;
};

/* At the beginning of its block, in the place of the first page. */
struct block {
	struct block **link; /* what points to it among those with room */
	struct block *next;
	struct page *given_back;
	uint32_t size, used, touched; /* pages: their size, those in use, those that ever were, with this one */
};

struct buffer {
	struct buffer *next;
	uintptr_t start;
	size_t len, used; /* bytes, pages */
	size_t size;      /* of a page */
	bool ours;	  /* nobody else reads it any more */
	struct page *given_back;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct buffer *buffers;

#ifdef DQLITEPY_SANITIZED
static void *page_of_block(size_t size)
{
	return sqlite3_malloc64(size);
}

static void back_to_block(void *page)
{
	sqlite3_free(page);
}
#else
static struct block *with_room[SIZES];

static struct block *of(const void *page)
{
	return (struct block *)((uintptr_t)page & ~(uintptr_t)(BLOCK - 1));
}

static struct block **list_of(size_t size)
{
	unsigned i = 0;
	while (i < SIZES && (size_t)LEAST << i != size) {
		i++;
	}
	return i < SIZES ? &with_room[i] : NULL;
}

static void enter(struct block *block)
{
	struct block **list = list_of(block->size);
	block->link = list;
	block->next = *list;
	*list = block;
	if (block->next != NULL) {
		block->next->link = &block->next;
	}
}

static void leave(struct block *block)
{
	*block->link = block->next;
	if (block->next != NULL) {
		block->next->link = block->link;
	}
}

static bool is_full(const struct block *block)
{
	return block->used == BLOCK / block->size - 1;
}

static char *map(size_t size)
{
	void *room = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return room != MAP_FAILED ? room : NULL;
}

/* At a multiple of its size, as `of` has it. */
static struct block *room_for_block(void)
{
	char *room = map(BLOCK);
	if (room == NULL || (char *)of(room) == room) {
		return (struct block *)room; /* the kernel puts it beside the one before, so this is the rule */
	}
	munmap(room, BLOCK);
	room = map(2 * BLOCK);
	if (room == NULL) {
		return NULL;
	}
	char *start = (char *)of(room + BLOCK);
	if (start > room) {
		munmap(room, (size_t)(start - room));
	}
	if (start < room + BLOCK) {
		munmap(start + BLOCK, (size_t)(room + BLOCK - start));
	}
	return (struct block *)start;
}

static struct block *block_with_room(size_t size)
{
	struct block **list = list_of(size);
	struct block *block = list != NULL ? *list : NULL;
	if (list != NULL && block == NULL && (block = room_for_block()) != NULL) {
		*block = (struct block){ .size = (uint32_t)size, .touched = 1 };
		enter(block);
	}
	return block;
}

static void *page_of_block(size_t size)
{
	struct block *block = block_with_room(size);
	if (block == NULL) {
		return NULL;
	}
	struct page *page = block->given_back;
	if (page != NULL) {
		block->given_back = page->next;
	} else {
		page = (struct page *)((char *)block + (size_t)block->touched++ * block->size);
	}
	block->used++;
	if (is_full(block)) {
		leave(block);
	}
	return page;
}

static void back_to_block(struct page *page)
{
	struct block *block = of(page);
	if (is_full(block)) {
		enter(block);
	}
	page->next = block->given_back;
	block->given_back = page;
	/* One that is alone stays: a page that comes and goes would cost a block each time. */
	bool alone = block->next == NULL && block->link == list_of(block->size);
	if (--block->used == 0 && !alone) {
		leave(block);
		munmap(block, BLOCK);
	}
}
#endif

/* The link to the buffer that this lies in, or to NULL. */
static struct buffer **find_buffer(const void *page)
{
	struct buffer **link = &buffers;
	while (*link != NULL && (uintptr_t)page - (*link)->start >= (*link)->len) {
		link = &(*link)->next;
	}
	return link;
}

static void *page_of_buffer(size_t size)
{
	struct buffer *buffer = buffers;
	while (buffer != NULL && (buffer->given_back == NULL || buffer->size != size)) {
		buffer = buffer->next;
	}
	if (buffer == NULL) {
		return NULL;
	}
	struct page *page = buffer->given_back;
	buffer->given_back = page->next;
	buffer->used++;
	return page;
}

static void free_if_unused(struct buffer **link)
{
	struct buffer *buffer = *link;
	if (buffer->ours && buffer->used == 0) {
		*link = buffer->next;
		raft_free((void *)buffer->start);
		free(buffer);
	}
}

static void back_to_buffer(struct buffer **link, struct page *page)
{
	struct buffer *buffer = *link;
	buffer->used--;
	/* Until then it may be restored from once more. */
	if (buffer->ours) {
		page->next = buffer->given_back;
		buffer->given_back = page;
	}
	free_if_unused(link);
}

/* NULL if there is no memory, or no such size. */
void *glue_page_new(sqlite3_uint64 size)
{
	pthread_mutex_lock(&mutex);
	void *page = page_of_buffer(size);
	if (page == NULL) {
		page = page_of_block(size);
	}
	pthread_mutex_unlock(&mutex);
	return page;
}

void glue_page_free(void *page)
{
	if (page != NULL) {
		pthread_mutex_lock(&mutex);
		struct buffer **link = find_buffer(page);
		if (*link != NULL) {
			back_to_buffer(link, page);
		} else {
			back_to_block(page);
		}
		pthread_mutex_unlock(&mutex);
	}
}

/* In place of a new page for the i-th one and of the copying. */
void *glue_page_restored(const struct vfsSnapshot *snapshot, size_t i);
void *glue_page_restored(const struct vfsSnapshot *snapshot, size_t i)
{
	void *page = snapshot->pages[i];
	pthread_mutex_lock(&mutex);
	struct buffer *buffer = *find_buffer(page);
	/* Wherever that buffer was written, its fields are aligned; but a page that is not would be no error there. */
	bool stays = buffer != NULL && !buffer->ours && (uintptr_t)page % sizeof(struct page) == 0;
	if (stays) {
		buffer->used++;
		buffer->size = snapshot->page_size;
	}
	pthread_mutex_unlock(&mutex);
	if (!stays && (page = glue_page_new(snapshot->page_size)) != NULL) {
		memcpy(page, snapshot->pages[i], snapshot->page_size);
	}
	return page;
}

static struct buffer *lend(const struct raft_buffer *from)
{
	struct buffer *buffer = calloc(1, sizeof *buffer);
	if (buffer != NULL) {
		buffer->start = (uintptr_t)from->base;
		buffer->len = from->len;
		pthread_mutex_lock(&mutex);
		buffer->next = buffers;
		buffers = buffer;
		pthread_mutex_unlock(&mutex);
	}
	return buffer;
}

/* In place of the call of fsm->restore, behind which the buffer belongs to nobody else, whatever came of it. */
int glue_restore(struct raft_fsm *fsm, struct raft_buffer *from);
int glue_restore(struct raft_fsm *fsm, struct raft_buffer *from)
{
	struct buffer *buffer = lend(from);
	int rv = glue_restore_all(fsm, from);
	if (buffer != NULL) {
		pthread_mutex_lock(&mutex);
		buffer->ours = true;
		struct buffer **link = &buffers;
		while (*link != buffer) {
			link = &(*link)->next;
		}
		free_if_unused(link);
		pthread_mutex_unlock(&mutex);
	} else {
		raft_free(from->base);
	}
	from->base = NULL;
	return rv;
}
