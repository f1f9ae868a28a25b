// The last entries; see journal.h.
#include "gateway/web/journal.h"

#include <stdlib.h>
#include <string.h>

#include "codecs/codec.h"
#include "gateway/base/memory.h"

struct entry {
    char ident[CODEC_IDENT_MAX + 1];
    char *text;
    size_t length;
};

struct journal {
    struct entry *ring;
    size_t room, first, count;
    size_t bytes, bytes_max;
};

struct journal *journal_new(size_t entries, size_t bytes) {
    struct journal *journal = must_have(calloc(1, sizeof *journal));
    *journal = (struct journal){
        .ring = must_have(calloc(entries, sizeof *journal->ring)), .room = entries, .bytes_max = bytes};
    return journal;
}

static void drop_oldest(struct journal *journal) {
    struct entry *oldest = &journal->ring[journal->first];
    journal->bytes -= oldest->length;
    free(oldest->text);
    journal->first = (journal->first + 1) % journal->room;
    journal->count--;
}

void journal_free(struct journal *journal) {
    while (journal->count > 0)
        drop_oldest(journal);
    free(journal->ring);
    free(journal);
}

void journal_add(struct journal *journal, const char *ident, char *text, size_t length) {
    while (journal->count > 0 &&
           (journal->count == journal->room || journal->bytes + length > journal->bytes_max))
        drop_oldest(journal);
    struct entry *entry = &journal->ring[(journal->first + journal->count++) % journal->room];
    *entry = (struct entry){.text = text, .length = length};
    strncpy(entry->ident, ident, CODEC_IDENT_MAX);
    journal->bytes += length;
}

void journal_each(const struct journal *journal, const char *ident,
                  void (*fn)(void *context, const char *text, size_t length), void *context) {
    for (size_t i = journal->count; i-- > 0;) {
        const struct entry *entry = &journal->ring[(journal->first + i) % journal->room];
        if (strcmp(entry->ident, ident) == 0)
            fn(context, entry->text, entry->length);
    }
}

struct writing {
    size_t left;
    struct text_out *out;
};

static void write_entry(void *context, const char *text, size_t length) {
    struct writing *writing = context;
    if (writing->left == 0)
        return;
    writing->left--;
    if (writing->out->text[writing->out->length - 1] != '[')
        text_out_bytes(writing->out, ",", 1);
    text_out_bytes(writing->out, text, length);
}

void journal_write(const struct journal *journal, const char *ident, size_t most, struct text_out *out) {
    struct writing writing = {most, out};
    text_out_bytes(out, "[", 1);
    journal_each(journal, ident, write_entry, &writing);
    text_out_bytes(out, "]", 1);
}
