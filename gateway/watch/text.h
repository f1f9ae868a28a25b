// Text for a terminal: what comes from outside made harmless, cells of a fixed width, times and ages as
// people read them.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Characters are UTF-8, whatever the user's locale says. Call it before anything else here.
void watch_text_setup(void);

// Copies UTF-8 text to out (capacity bytes, at least 16), with \xHH or \uHHHH for what a terminal would obey
// or not show: control characters, marks that change the direction of writing. Cut with … where capacity
// ends; returns out.
char *watch_clean(const char *text, size_t length, char *out, size_t capacity);

struct watch_line {
    char text[2048];
    size_t length;
};

// Columns that clean text takes on a terminal.
int watch_columns(const char *text);
// Puts clean text into a cell of that many columns, cut with … or filled with blanks, which come first when
// it is negative. What does not fit into the line is left out.
void watch_cell(struct watch_line *line, const char *text, int columns);
__attribute__((format(printf, 2, 3))) void watch_add(struct watch_line *line, const char *format, ...);
// Cuts the line to that many columns.
void watch_cut(struct watch_line *line, int columns);

#define WATCH_TIME_MAX 32 // bytes of a time or an age

// Local time without zone, "2026-11-21T09:05:07". time is microseconds since 1970.
const char *watch_time(int64_t time, char out[WATCH_TIME_MAX]);
// How long ago that was, to a whole unit: "12 s", "59 min", "23 h", "3 d".
const char *watch_age(int64_t microseconds, char out[WATCH_TIME_MAX]);
