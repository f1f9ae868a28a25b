// Collecting what bytes stand for; see explain.h.
#include "codecs/explain.h"

#include <stdarg.h>
#include <stdio.h>

void explain_reset(struct explanation *explanation) {
    explanation->count = 0;
    explanation->table[0] = '\0';
    explanation->assumed = false;
}

void explain_table(struct explanation *explanation, bool assumed, const char *format, ...) {
    va_list arguments;
    if (explanation == NULL)
        return;
    va_start(arguments, format);
    vsnprintf(explanation->table, sizeof explanation->table, format, arguments);
    va_end(arguments);
    explanation->assumed = assumed;
}

static struct explain_entry *append(struct explanation *explanation, const struct explain_piece *piece) {
    if (explanation->count == EXPLAIN_PIECES_MAX || piece->length == 0)
        return NULL;
    struct explain_entry *entry = &explanation->entries[explanation->count++];
    entry->piece = *piece;
    entry->piece.assumed = piece->assumed || explanation->assumed;
    snprintf(entry->index, sizeof entry->index, "%s", piece->index != NULL ? piece->index : "");
    entry->piece.index = entry->index;
    return entry;
}

void explain_add(struct explanation *explanation, const struct explain_piece *piece) {
    struct explain_entry *entry = append(explanation, piece);
    if (entry != NULL)
        snprintf(entry->row, sizeof entry->row, "%s", explanation->table);
}

void explain_add_row(struct explanation *explanation, const struct explain_piece *piece, size_t row) {
    struct explain_entry *entry = append(explanation, piece);
    if (entry != NULL)
        snprintf(entry->row, sizeof entry->row, "%.30s item %zu", explanation->table, row);
}
