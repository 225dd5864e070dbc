/* The second translation unit of abi.c: the header may define nothing that collides at link. */
#include "dqlitepy.h"

dqlitepy_handle other_unit(dqlitepy_handle handle);
int (*other_unit_start(void))(dqlitepy_handle);

dqlitepy_handle other_unit(dqlitepy_handle handle)
{
	return handle;
}

int (*other_unit_start(void))(dqlitepy_handle)
{
	return dqlitepy_node_start;
}
