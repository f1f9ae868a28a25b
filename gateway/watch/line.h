// Lines for a terminal: cells of a fixed width, cut between characters.
#pragma once

#include <stddef.h>

// Makes characters UTF-8 whatever the user's locale says, so that their widths are known. Call it first.
void line_setup(void);

struct line {
    char text[2048];
    size_t length;
};

// Columns that clean text (see gateway/base/clean.h) takes on a terminal.
int line_columns(const char *text);

// Appends text. What does not fit into the line is left out as a whole.
__attribute__((format(printf, 2, 3))) void line_add(struct line *line, const char *format, ...);

// Appends clean text as a cell of that many columns, cut with … or padded with blanks: behind the text, or
// before it when columns is negative.
void line_cell(struct line *line, const char *text, int columns);

// Cuts the line to that many columns.
void line_cut(struct line *line, int columns);
