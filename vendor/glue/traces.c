/*
 * Each statement makes one to four state machines of the engine (lib/sm.c), and each of them asks the kernel for the process and
 * prints its name and its attributes: only for traces that nobody can turn on here. A system call and a format string are
 * a twentieth of a SELECT.
 */
#include <stdarg.h>
#include <stddef.h>
#include <sys/types.h>

pid_t glue_trace_pid(void);
int glue_trace_text(char *text, size_t size, const char *format, ...);
int glue_trace_list(char *text, size_t size, const char *format, va_list arguments);

pid_t glue_trace_pid(void)
{
	return 0;
}

int glue_trace_text(char *text, size_t size, const char *format, ...)
{
	(void)format;
	if (size > 0) {
		text[0] = '\0';
	}
	return 0;
}

int glue_trace_list(char *text, size_t size, const char *format, va_list arguments)
{
	(void)arguments;
	return glue_trace_text(text, size, format);
}
