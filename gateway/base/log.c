// The gateway's own log; see log.h.
#include "gateway/base/log.h"

#include <jansson.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/base/clean.h"
#include "gateway/base/clock.h"
#include "gateway/base/limiter.h"

// A reload sets them while the page's thread writes lines.
static _Atomic enum log_level log_max = LOG_INFO;
static _Atomic enum log_format log_form = LOG_TEXT;
static _Atomic unsigned log_worker;

static log_sink *log_diverted;
static void *log_diverted_context;

static const char *const level_names[] = {
    [LOG_ERROR] = "error", [LOG_WARNING] = "warning", [LOG_INFO] = "info", [LOG_DEBUG] = "debug"};

void log_setup(enum log_level level, enum log_format format, unsigned worker) {
    log_max = level;
    log_form = format;
    log_worker = worker;
}

void log_divert(log_sink *sink, void *context) {
    log_diverted = sink;
    log_diverted_context = context;
}

static void format_time(char *text, size_t capacity) {
    int64_t now = clock_now();
    time_t seconds = (time_t)(now / 1000000);
    struct tm parts;
    gmtime_r(&seconds, &parts);
    size_t length = strftime(text, capacity, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(text + length, capacity - length, ".%03dZ", (int)(now % 1000000 / 1000));
}

// --- so that nobody fills it ---

static pthread_mutex_t limits_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct limiter kinds = {.per_second = LOG_KIND_LINES}, sources = {.per_second = LOG_LINES};

static uint64_t milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

// source NULL: about nobody outside. left_out: how many were before it.
static bool may_come(const char *format, const char *source, unsigned *left_out) {
    struct {
        const char *format;
        char source[120];
    } of = {.format = format};
    unsigned of_kind = 0, of_source = 0;
    uint64_t now = milliseconds();
    snprintf(of.source, sizeof of.source, "%s", source != NULL ? source : "");
    pthread_mutex_lock(&limits_mutex);
    bool may = (source == NULL || limiter_allows(&sources, now, &of, sizeof of, &of_source)) &&
               limiter_allows(&kinds, now, &format, sizeof format, &of_kind);
    pthread_mutex_unlock(&limits_mutex);
    *left_out = of_kind + of_source;
    return may;
}

// --- writing ---

static void write_line(enum log_level level, const char *format, va_list arguments) {
    char when[40], text[LOG_LINE_MAX + 1], *whole;
    if (level > log_max || vasprintf(&whole, format, arguments) < 0)
        return;
    format_time(when, sizeof when);
    clean_text(whole, strlen(whole), text, sizeof text);
    free(whole);
    if (log_diverted != NULL) {
        log_diverted(log_diverted_context, level, text);
    } else if (log_form == LOG_TEXT) {
        char worker[24] = "";
        if (log_worker != 0)
            snprintf(worker, sizeof worker, "worker %u: ", log_worker);
        fprintf(stderr, "%s %-7s %s%s\n", when, level_names[level], worker, text);
    } else {
        json_t *line = json_pack("{s:s, s:s, s:s}", "time", when, "level", level_names[level], "text", text);
        if (log_worker != 0)
            json_object_set_new(line, "worker", json_integer(log_worker));
        char *json = json_dumps(line, JSON_COMPACT);
        fprintf(stderr, "%s\n", json != NULL ? json : "{}");
        free(json);
        json_decref(line);
    }
}

__attribute__((format(printf, 3, 0))) static void write_limited(const char *source, enum log_level level,
                                                                const char *format, va_list arguments) {
    unsigned left_out = 0;
    if (level > log_max || (log_max < LOG_DEBUG && !may_come(format, source, &left_out)))
        return;
    if (left_out > 0)
        log_at(level, "%u more like the next line were left out", left_out);
    write_line(level, format, arguments);
}

#define DEFINE(name, level)                                                                                  \
    void name(const char *format, ...) {                                                                     \
        va_list arguments;                                                                                   \
        va_start(arguments, format);                                                                         \
        write_limited(NULL, level, format, arguments);                                                       \
        va_end(arguments);                                                                                   \
    }

DEFINE(log_error, LOG_ERROR)
DEFINE(log_warning, LOG_WARNING)
DEFINE(log_info, LOG_INFO)
DEFINE(log_debug, LOG_DEBUG)

void log_about(const char *source, enum log_level level, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_limited(source, level, format, arguments);
    va_end(arguments);
}

void log_at(enum log_level level, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_line(level, format, arguments);
    va_end(arguments);
}

char *log_quote(const uint8_t *bytes, size_t length, char *text, size_t capacity) {
    size_t used = 0;
    for (size_t i = 0; i < length; i++) {
        if (used + 8 > capacity) {
            strcpy(text + used, "…");
            return text;
        }
        bool plain = bytes[i] >= ' ' && bytes[i] <= '~' && bytes[i] != '\\';
        used += (size_t)snprintf(text + used, capacity - used, plain ? "%c" : "\\x%02x", bytes[i]);
    }
    text[used] = '\0';
    return text;
}
