/* Does the wrong thing of this number (src/engine/wrong.rs), on a library that was built for a sanitizer. */
#include <stdio.h>
#include <stdlib.h>

void dqlitepy_wrong(int kind);

int main(int argc, char **argv)
{
	if (argc != 2) {
		fputs("usage: wrong KIND\n", stderr);
		return 2;
	}
	dqlitepy_wrong(atoi(argv[1]));
	puts("nobody minded");
	return 0;
}
