// The gateway's own log, on standard error: one line per event, as text or JSON. Whatever a device or a
// broker says is escaped on the way out, so that nothing from outside reaches a terminal raw.
#pragma once

#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_TEXT, LOG_JSON };

// Until this is called: LOG_INFO and LOG_TEXT. worker tells several processes apart, and is in each
// line; 0: a single process.
void log_setup(enum log_level level, enum log_format format, unsigned worker);

// From now on lines go to sink instead of standard error, escaped and without their time: for a program that
// draws on the terminal. sink may be called on any thread.
typedef void log_sink(void *context, enum log_level level, const char *text);
void log_divert(log_sink *sink, void *context);

__attribute__((format(printf, 1, 2))) void log_error(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_warning(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_info(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_debug(const char *format, ...);
__attribute__((format(printf, 2, 3))) void log_at(enum log_level level, const char *format, ...);

// Writes bytes as text with \xHH for what is not printable ASCII, ending with … where capacity (at least 8)
// was not enough; returns text.
char *log_quote(const uint8_t *bytes, size_t length, char *text, size_t capacity);
