// Frames explained; see explaining.h.
#include "gateway/cli/explaining.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/hex.h"
#include "gateway/base/memory.h"

#define VALUE_MAX 64 // bytes of a value, of raw text and of hexadecimal digits that are shown, with the NUL
#define FAULT_ROW 32 // bytes in a line

struct explaining {
    struct explanation explanation;
    size_t settled; // entries that have their value
    const char *separators;
    char values[EXPLAIN_PIECES_MAX][VALUE_MAX];
};

struct explaining *explaining_new(struct stream *stream) {
    struct explaining *explaining = must_have(calloc(1, sizeof *explaining));
    explaining->separators = stream->codec->separators != NULL ? stream->codec->separators : "";
    stream->explanation = &explaining->explanation;
    return explaining;
}

void explaining_free(struct explaining *explaining) {
    free(explaining);
}

// Cut at a whole character of UTF-8, with dots behind it.
static void copy_short(const char *text, size_t length, char out[VALUE_MAX]) {
    size_t room = VALUE_MAX - 4, end = length <= room ? length : room;
    while (length > room && end > 0 && ((unsigned char)text[end] & 0xC0) == 0x80)
        end--;
    memcpy(out, text, end);
    strcpy(out + end, length > room ? "..." : "");
}

// --- values ---

static bool is_member(const struct explain_piece *piece, const struct message_member *member) {
    return member->field == piece->field && strlen(piece->index) == member->index_length &&
           memcmp(piece->index, member->index, member->index_length) == 0;
}

static const char *why_removed(const struct message *message, enum field field) {
    for (size_t i = 0; i < message->removed_count && i < MESSAGE_REMOVED_MAX; i++)
        if (message->removed[i].field == field)
            return message->removed[i].reason;
    return NULL;
}

static void set_value(const struct explain_piece *piece, const struct message *message,
                      const struct message_member *members, size_t count, char value[VALUE_MAX]) {
    const char *why = why_removed(message, piece->field);
    for (size_t i = 0; i < count && piece->field != FIELD_NONE; i++)
        if (is_member(piece, &members[i])) {
            copy_short(members[i].value, members[i].length, value);
            return;
        }
    if (why != NULL && piece->field != FIELD_NONE)
        snprintf(value, VALUE_MAX, "left out: %s", why);
}

void explaining_message(struct explaining *explaining, const struct message *message,
                        const struct message_member *members, size_t count) {
    const struct explanation *explanation = &explaining->explanation;
    for (; explaining->settled < explanation->count; explaining->settled++)
        set_value(&explanation->entries[explaining->settled].piece, message, members, count,
                  explaining->values[explaining->settled]);
}

// --- lines ---

struct line {
    size_t offset, length;
    unsigned bit, bits;
    const uint8_t *bytes;
    const char *what, *value, *status, *row;
};

static bool is_printable(const uint8_t *bytes, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (bytes[i] < ' ' || bytes[i] > '~')
            return false;
    return true;
}

static uint64_t number_of(const struct line *line) {
    unsigned bits = line->bits > 0 ? line->bits : (unsigned)line->length * 8;
    uint64_t value = 0;
    for (size_t bit = line->bit; bit < line->bit + bits; bit++)
        value = value << 1 | (line->bytes[bit / 8] >> (7 - bit % 8) & 1);
    return value;
}

// Text of text frames, and of longer binary ones; otherwise a number where the bytes may be one.
static void write_raw(const struct line *line, bool text_frame, char raw[VALUE_MAX]) {
    bool printable = line->bits == 0 && is_printable(line->bytes, line->length);
    raw[0] = '\0';
    if (printable && (text_frame || line->length > 8))
        copy_short((const char *)line->bytes, line->length, raw);
    else if (line->bits > 0 ? line->bits <= 64 : line->length <= 8)
        snprintf(raw, VALUE_MAX, "%llu", (unsigned long long)number_of(line));
}

static void print_line(const struct line *line, bool text_frame) {
    char raw[VALUE_MAX], hex[2 * VALUE_MAX + 1], bytes[VALUE_MAX], place[32], bits[16] = "";
    size_t shown = line->length < VALUE_MAX ? line->length : VALUE_MAX;
    hex_write(line->bytes, shown, hex);
    copy_short(hex, 2 * shown, bytes);
    write_raw(line, text_frame, raw);
    if (line->bits > 0)
        snprintf(bits, sizeof bits, ".%u+%u", line->bit, line->bits);
    snprintf(place, sizeof place, "%zu%s", line->offset, bits);
    printf("  %-10s %-30s %-34s %-22s %-24s %-8s %s\n", place, bytes, line->what, raw, line->value,
           line->status, line->row);
}

static const char *name_of(const struct explain_entry *entry, const char *value, char text[VALUE_MAX]) {
    const struct explain_piece *piece = &entry->piece;
    bool by_name = piece->field == FIELD_NONE || (*value == '\0' && piece->name != NULL);
    snprintf(text, VALUE_MAX, "%s%s%s", by_name ? piece->name : field_table[piece->field].name,
             *piece->index == '\0' ? ""
             : by_name             ? " "
                                   : ".",
             piece->index);
    return text;
}

static void print_entry(const struct explaining *explaining, size_t i, const struct stream_frame *frame) {
    const struct explain_entry *entry = &explaining->explanation.entries[i];
    const struct explain_piece *piece = &entry->piece;
    char name[VALUE_MAX];
    print_line(&(struct line){.offset = (size_t)(piece->bytes - frame->bytes),
                              .length = piece->length,
                              .bit = piece->bit,
                              .bits = piece->bits,
                              .bytes = piece->bytes,
                              .what = name_of(entry, explaining->values[i], name),
                              .value = explaining->values[i],
                              .status = piece->assumed ? "assumed" : "known",
                              .row = entry->row},
               *explaining->separators != '\0');
}

// What no codec named: what only parts two pieces, and what was not read because the frame was rejected.
static void print_gap(const struct explaining *explaining, const struct stream_frame *frame, size_t from,
                      size_t to) {
    bool parts = true;
    for (size_t i = from; i < to; i++)
        parts = parts && frame->bytes[i] != '\0' && strchr(explaining->separators, frame->bytes[i]) != NULL;
    if (from < to)
        print_line(&(struct line){.offset = from,
                                  .length = to - from,
                                  .bytes = frame->bytes + from,
                                  .what = parts ? "separator" : "not read",
                                  .value = "",
                                  .status = "",
                                  .row = ""},
                   *explaining->separators != '\0');
}

// --- frames ---

static int by_place(const void *left, const void *right, void *context) {
    const struct explanation *explanation = context;
    const struct explain_piece *a = &explanation->entries[*(const size_t *)left].piece;
    const struct explain_piece *b = &explanation->entries[*(const size_t *)right].piece;
    if (a->bytes != b->bytes)
        return a->bytes < b->bytes ? -1 : 1;
    return a->bit < b->bit ? -1 : a->bit > b->bit;
}

static void print_entries(struct explaining *explaining, const struct stream_frame *frame) {
    struct explanation *explanation = &explaining->explanation;
    size_t order[EXPLAIN_PIECES_MAX], at = 0;
    for (size_t i = 0; i < explanation->count; i++)
        order[i] = i;
    qsort_r(order, explanation->count, sizeof order[0], by_place, explanation);
    for (size_t i = 0; i < explanation->count; i++) {
        const struct explain_piece *piece = &explanation->entries[order[i]].piece;
        size_t from = (size_t)(piece->bytes - frame->bytes);
        print_gap(explaining, frame, at, from);
        print_entry(explaining, order[i], frame);
        at = from + piece->length > at ? from + piece->length : at;
    }
    print_gap(explaining, frame, at, frame->length);
}

void explaining_frame(struct explaining *explaining, const struct stream_frame *frame) {
    printf("frame at offset %llu, %zu bytes: %s\n", (unsigned long long)frame->offset, frame->length,
           codec_verdict_name(frame->verdict));
    printf("  %-10s %-30s %-34s %-22s %-24s %-8s %s\n", "OFFSET", "BYTES", "FIELD", "RAW", "VALUE", "",
           "ROW");
    print_entries(explaining, frame);
    memset(explaining->values, 0, explaining->explanation.count * sizeof explaining->values[0]);
    explaining->settled = 0;
}

void explaining_fault(const struct stream_fault *fault, FILE *file) {
    size_t first = fault->at < fault->length ? fault->at : fault->length;
    for (size_t from = 0; from < fault->length; from += FAULT_ROW) {
        size_t to = from + FAULT_ROW < fault->length ? from + FAULT_ROW : fault->length;
        fputs("  ", file);
        for (size_t i = from; i < to; i++)
            fprintf(file, "%02x ", fault->bytes[i]);
        bool here = first >= from && (first < to || to == fault->length);
        if (here && first < from + FAULT_ROW + 1)
            fprintf(file, "\n  %*s^^", (int)(3 * (first - from)), "");
        fputc('\n', file);
    }
}
