/* The figures of the process, of a node and of a client, and what else a client sets. */
#include "check.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void expect(char *text, const char *part)
{
	CHECK(text != NULL);
	if (strstr(text, part) == NULL)
		check_fail(__FILE__, __LINE__, "%s is not in %.2000s", part, text);
	dqlitepy_free(text);
}

static void figures(void)
{
	const char *address = free_address();
	dqlitepy_handle node = running_node(path_in_test_dir("node"), address), session = 0, statement = 0, client = 0;
	CHECK_OK(dqlitepy_session_open(node, "app.db", &session));
	CHECK_OK(dqlitepy_session_exec(session, "CREATE TABLE t(a)", -1, NULL, NULL));
	CHECK_OK(dqlitepy_session_prepare(session, "INSERT INTO t VALUES (?)", -1, &statement, NULL));
	CHECK_OK(dqlitepy_statement_bind_null(statement, 1));
	CHECK_OK(dqlitepy_statement_exec(statement, NULL, NULL));
	CHECK_OK(dqlitepy_statement_finalize(statement));

	char *text = NULL;
	CHECK_OK(dqlitepy_node_metrics(node, DQLITEPY_METRICS_JSON, &text));
	expect(text, "\"dqlitepy_node_rows_changed_total\"");
	CHECK_OK(dqlitepy_node_metrics(node, DQLITEPY_METRICS_PROMETHEUS, &text));
	expect(text, "# TYPE dqlitepy_node_calls_total counter\n");
	CHECK_OK(dqlitepy_metrics(DQLITEPY_METRICS_PROMETHEUS, &text));
	expect(text, dqlitepy_version_string());
	CHECK_OK(dqlitepy_client_create(address, &client));
	CHECK_OK(dqlitepy_client_metrics(client, DQLITEPY_METRICS_JSON, &text));
	expect(text, "\"dqlitepy_client_calls_total\"");

	CHECK_OK(dqlitepy_client_set_weight(client, address, 3));
	unsigned long long weight = 0;
	CHECK_OK(dqlitepy_client_describe(client, address, NULL, &weight));
	CHECK_INT(weight, 3);
	CHECK_INT(dqlitepy_client_assign(client, 99, 0), DQLITEPY_NOTFOUND);
	CHECK_OK(dqlitepy_client_close(client));

	text = (char *)"before";
	CHECK_INT(dqlitepy_node_metrics(node, 2, &text), DQLITEPY_INVALID);
	CHECK(text == NULL);
	CHECK_INT(dqlitepy_metrics(-1, &text), DQLITEPY_INVALID);
	CHECK_INT(dqlitepy_metrics(DQLITEPY_METRICS_JSON, NULL), DQLITEPY_INVALID);
	CHECK_INT(dqlitepy_client_metrics(node, DQLITEPY_METRICS_JSON, &text), DQLITEPY_INVALID);
	CHECK_OK(dqlitepy_session_close(session));
	dqlitepy_node_destroy(node);
	CHECK_INT(dqlitepy_node_metrics(node, DQLITEPY_METRICS_JSON, &text), DQLITEPY_NOTFOUND);
}

static const struct test tests[] = {
	{ "figures", figures, 0 },
	{ NULL, NULL, 0 },
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, tests);
}
