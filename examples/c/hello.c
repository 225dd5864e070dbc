/*
 * hello.c - one node, one database, a few rows.
 *
 *   cc -Iinclude examples/c/hello.c -o hello -Ltarget/release -ldqlitepy -Wl,-rpath,"$PWD/target/release"
 *   ./hello DIRECTORY [ADDRESS]
 */
#include <stdio.h>
#include <stdlib.h>

#include "dqlitepy.h"

/* Every function returns 0 or a code; the message says what, where, why and what to do. */
static void must(int code)
{
	if (code != DQLITEPY_OK) {
		char *message = dqlitepy_last_error();
		fprintf(stderr, "hello: code %d: %s\n", code, message);
		dqlitepy_free(message);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	const char *directory = argc > 1 ? argv[1] : "hello-data";
	const char *address = argc > 2 ? argv[2] : "127.0.0.1:9001";
	dqlitepy_handle node;
	int64_t last_insert_id, rows_affected;
	char *json;

	/* The directory is made at the first start. A node keeps its id and its address for life. */
	must(dqlitepy_node_create(1, address, directory, &node));
	must(dqlitepy_node_start(node));
	must(dqlitepy_node_open_db(node, "hello.db"));

	must(dqlitepy_node_exec(node, "CREATE TABLE IF NOT EXISTS greeting (id INTEGER PRIMARY KEY, text TEXT)", NULL, NULL));
	must(dqlitepy_node_exec(node, "INSERT INTO greeting (text) VALUES ('hello'), ('world')", &last_insert_id, &rows_affected));
	printf("inserted %lld rows, the last one has id %lld\n", (long long)rows_affected, (long long)last_insert_id);

	/* Several calls on one handle make a transaction. */
	must(dqlitepy_node_exec(node, "BEGIN", NULL, NULL));
	must(dqlitepy_node_exec(node, "DELETE FROM greeting", NULL, NULL));
	must(dqlitepy_node_exec(node, "ROLLBACK", NULL, NULL));

	must(dqlitepy_node_query(node, "SELECT id, text FROM greeting ORDER BY id DESC LIMIT 2", &json));
	printf("%s\n", json);
	dqlitepy_free(json);

	must(dqlitepy_node_stop(node));
	dqlitepy_node_destroy(node);
	return 0;
}
