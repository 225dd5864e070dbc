/*
 * What raft encodes for the disk and for other nodes has gaps: three bytes in each entry's header, up to seven behind a
 * configuration. Nobody writes them, so what stood in the host's memory there went out with the rest.
 */
#include "src/raft.h"

void *glue_raft_zeroed(size_t size);

void *glue_raft_zeroed(size_t size)
{
	return raft_calloc(1, size);
}
