// The gateway's own log, on standard error: one line per event, as text or JSON. Whatever a device or a
// broker says is escaped on the way out, so that nothing from outside reaches a terminal raw.
//
// Nobody can fill it: a line has at most LOG_LINE_MAX bytes, and of lines of one kind (that is, with one format) at
// most LOG_KIND_LINES come in a second, and LOG_LINES about one source (see log_about()). The next one that comes says
// how many were left out. With the level LOG_DEBUG all come.
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

#define LOG_LINE_MAX   2048
#define LOG_LINES      20
#define LOG_KIND_LINES 200

// About something that somebody outside can bring about again and again; source says who or what (a device, a topic).
__attribute__((format(printf, 3, 4))) void log_about(const char *source, enum log_level level,
                                                     const char *format, ...);
// Without a limit but the line's length: whoever calls it has one of its own.
__attribute__((format(printf, 2, 3))) void log_at(enum log_level level, const char *format, ...);

// Writes bytes as text with \xHH for what is not printable ASCII, ending with … where capacity (at least 8)
// was not enough; returns text.
char *log_quote(const uint8_t *bytes, size_t length, char *text, size_t capacity);
