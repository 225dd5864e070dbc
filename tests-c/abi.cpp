// The header in C++11: it declares C functions of exactly these types, and a program links and runs.
#include "dqlitepy.h"

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <type_traits>

#define PROTOTYPE(name, result, parameters) \
	static_assert(std::is_same<decltype(&name), result(*) parameters>::value, "type of " #name);
#include "prototypes.h"
#undef PROTOTYPE

static_assert(sizeof(dqlitepy_node_info) == 24, "size of dqlitepy_node_info");
static_assert(DQLITEPY_SQL == 1000, "base of the SQL codes");

int main()
{
	// A failing call from C++: the code, and a message that names the argument.
	dqlitepy_handle handle = 77;
	int rc = dqlitepy_node_create(1, nullptr, "nowhere", &handle);
	char *message = dqlitepy_last_error();
	std::string text(message ? message : "");
	dqlitepy_free(message);
	if (rc != DQLITEPY_INVALID || handle != 0 || text.find("address") == std::string::npos) {
		std::printf("FAIL c++: rc %d, handle %llu, '%s'\n", rc, handle, text.c_str());
		return 1;
	}
	std::printf("ok c++\n1 passed, 0 failed, 0 skipped\n");
	return 0;
}
