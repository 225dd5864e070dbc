/* The header in strict C99: types, sizes and values are those that compiled programs and dqlitepy rely on. */
#include "dqlitepy.h"
#include "dqlitepy.h" /* twice: the guard holds */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define STATIC_CHECK(name, condition) typedef char static_check_##name[(condition) ? 1 : -1]

STATIC_CHECK(node_id_type, __builtin_types_compatible_p(dqlitepy_node_id, unsigned long long));
STATIC_CHECK(handle_type, __builtin_types_compatible_p(dqlitepy_handle, unsigned long long));
STATIC_CHECK(handle_size, sizeof(dqlitepy_handle) == 8);
STATIC_CHECK(info_size, sizeof(dqlitepy_node_info) == 24);
STATIC_CHECK(info_id, offsetof(dqlitepy_node_info, id) == 0);
STATIC_CHECK(info_address, offsetof(dqlitepy_node_info, address) == 8);
STATIC_CHECK(info_role, offsetof(dqlitepy_node_info, role) == 16);
STATIC_CHECK(info_id_type, __builtin_types_compatible_p(__typeof__(((dqlitepy_node_info *)0)->id), dqlitepy_node_id));
STATIC_CHECK(info_address_type, __builtin_types_compatible_p(__typeof__(((dqlitepy_node_info *)0)->address), char *));
STATIC_CHECK(info_role_type, __builtin_types_compatible_p(__typeof__(((dqlitepy_node_info *)0)->role), int));

STATIC_CHECK(codes, DQLITEPY_OK == 0 && DQLITEPY_NOMEM == 1 && DQLITEPY_INVALID == 2 && DQLITEPY_NOTFOUND == 3 &&
			    DQLITEPY_MISUSE == 4 && DQLITEPY_NOLEADER == 5 && DQLITEPY_SHUTDOWN == 6 &&
			    DQLITEPY_STOPPED == 7 && DQLITEPY_INTERNAL == 8);
STATIC_CHECK(own_codes, DQLITEPY_TIMEOUT == 100 && DQLITEPY_UNKNOWN == 101 && DQLITEPY_RETRY == 102 &&
				DQLITEPY_TRANSACTION_LOST == 103 && DQLITEPY_SQL == 1000);

/* Exactly the type: a pointer to the function is a pointer to the type written down, and no conversion is needed. */
#define PROTOTYPE(name, result, parameters) \
	STATIC_CHECK(type_of_##name, __builtin_types_compatible_p(__typeof__(&name), result(*) parameters)); \
	static result(*const use_##name) parameters = name;
#include "prototypes.h"
#undef PROTOTYPE

/* The second translation unit. */
dqlitepy_handle other_unit(dqlitepy_handle handle);
int (*other_unit_start(void))(dqlitepy_handle);

int main(void)
{
	int linked = 0;
#define PROTOTYPE(name, result, parameters) linked += use_##name != NULL;
#include "prototypes.h"
#undef PROTOTYPE
	if (linked != 25 || other_unit(7) != 7 || other_unit_start() != use_dqlitepy_node_start) {
		printf("FAIL abi: linked %d functions\n", linked);
		return 1;
	}
	printf("ok 25 functions, types and sizes, two translation units\n");
	/* The number is that of the text: major * 10000 + minor * 100 + patch. */
	int number = use_dqlitepy_version_number(), major = 0, minor = 0, patch = 0;
	const char *text = use_dqlitepy_version_string();
	if (!text || sscanf(text, "%d.%d.%d", &major, &minor, &patch) != 3 || number <= 0 ||
	    number != major * 10000 + minor * 100 + patch) {
		printf("FAIL version: number %d, text '%s'\n", number, text ? text : "(NULL)");
		return 1;
	}
	if (text != use_dqlitepy_version_string()) {
		printf("FAIL version: the text is not static\n");
		return 1;
	}
	printf("ok version\n2 passed, 0 failed, 0 skipped\n");
	return 0;
}
