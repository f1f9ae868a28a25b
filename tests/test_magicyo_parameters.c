// The published list of Magicyo parameters against the vectors: each name must come from each source that the
// list gives it, in at least one vector. The source of a message is worked out from the bytes of its frame,
// not from what the codec made of them.
//
// In tests/data/magicyo-parameters.txt an entry is a name, its type, a unit where it has one, a description,
// and the sources, each but the last with a comma behind it:
//
//   Frame type 0x01
//   Data type 0x02
//   Data subtype 0x00 of Data type 0x02
//   Attribute ID 407 of Data subtype 0x02 of Data type 0x04
//
// Names without sources are always there, or are the gateway's own.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/channels/message_stamp.h"
#include "gateway/channels/stream.h"
#include "schema/field.h"
#include "tests/vector.h"

#define PAIRS_MAX  1024
#define FRAME_DATA 0x03

// -1: the source does not say, or the frame has none.
struct source {
    int frame_type, data_type, subtype, attribute;
};

struct pair {
    char name[64];
    struct source source;
    bool covered;
};

static struct pair pairs[PAIRS_MAX];
static size_t pair_count;
static char names_without_source[32][64];
static size_t without_source_count;

// --- reading the list ---

static bool parse_source(const char *line, struct source *source) {
    unsigned frame, type, subtype;
    int attribute;
    *source = (struct source){-1, -1, -1, -1};
    if (sscanf(line, "Attribute ID %d of Data subtype 0x%x of Data type 0x%x", &attribute, &subtype, &type) ==
        3)
        *source = (struct source){FRAME_DATA, (int)type, (int)subtype, attribute};
    else if (sscanf(line, "Data subtype 0x%x of Data type 0x%x", &subtype, &type) == 2)
        *source = (struct source){FRAME_DATA, (int)type, (int)subtype, -1};
    else if (sscanf(line, "Data type 0x%x", &type) == 1)
        *source = (struct source){FRAME_DATA, (int)type, -1, -1};
    else if (sscanf(line, "Frame type 0x%x", &frame) == 1)
        *source = (struct source){(int)frame, -1, -1, -1};
    else
        return false;
    return true;
}

static bool is_type(const char *line) {
    return strcmp(line, "number") == 0 || strcmp(line, "string") == 0 || strcmp(line, "boolean") == 0;
}

static void end_entry(const char *name, size_t sources) {
    if (name[0] == '\0' || sources > 0)
        return;
    cr_assert(without_source_count < sizeof names_without_source / sizeof names_without_source[0]);
    strcpy(names_without_source[without_source_count++], name);
}

// A line before a type is a name; all that can be read as a source belongs to the name before it.
static void read_list(void) {
    FILE *file = fopen(TEST_DATA "/magicyo-parameters.txt", "r");
    char line[256], before[256] = "", name[64] = "";
    size_t sources = 0;
    cr_assert(file != NULL, "the list cannot be read");
    while (fgets(line, sizeof line, file) != NULL) {
        struct source source;
        line[strcspn(line, "\r\n")] = '\0';
        if (is_type(line)) {
            end_entry(name, sources);
            snprintf(name, sizeof name, "%.63s", before);
            sources = 0;
        } else if (name[0] != '\0' && parse_source(line, &source)) {
            cr_assert(pair_count < PAIRS_MAX);
            snprintf(pairs[pair_count].name, sizeof pairs->name, "%s", name);
            pairs[pair_count++].source = source;
            sources++;
        }
        strcpy(before, line);
    }
    end_entry(name, sources);
    fclose(file);
}

// --- what the vectors produce ---

struct walk {
    struct stream stream;
    const uint8_t *bytes; // being fed
    uint64_t begin;       // their offset in the stream
};

static bool same_or_open(int listed, int is) {
    return listed < 0 || listed == is;
}

static void cover(const char *name, struct source is) {
    for (size_t i = 0; i < pair_count; i++) {
        const struct source *listed = &pairs[i].source;
        if (strcmp(name, pairs[i].name) == 0 && same_or_open(listed->frame_type, is.frame_type) &&
            same_or_open(listed->data_type, is.data_type) && same_or_open(listed->subtype, is.subtype) &&
            listed->attribute == is.attribute)
            pairs[i].covered = true;
    }
}

static void cover_all(const struct message *message, struct source is) {
    for (size_t i = 0; i < message->count; i++)
        cover(field_table[message->values[i].field].name, is);
}

static size_t word_at(const uint8_t *bytes) {
    return (size_t)(bytes[0] << 8 | bytes[1]);
}

// The list is of V2: frames whose two lengths agree.
static void take_message(void *context, struct message *message) {
    struct walk *walk = context;
    const uint8_t *frame = walk->bytes + (walk->stream.offset - walk->begin);
    size_t total = word_at(frame + 2), length = word_at(frame + 22), at = 26;
    struct source is = {frame[19], -1, -1, -1};
    if (total < 30 + length || total > 37 + length)
        return;
    // A heartbeat has no time: its timestamp is when it was received.
    if (is.frame_type == 0x0C)
        message_stamp(message, &(struct message_origin){.codec = walk->stream.codec, .received = 1});
    if (is.frame_type == FRAME_DATA && length >= 2) {
        is.data_type = frame[24];
        is.subtype = frame[25];
    }
    cover_all(message, is);
    if (is.data_type != 0x04 || is.subtype < 0x02 || is.subtype > 0x05)
        return;
    for (; at + 3 <= 24 + length; at += 3U + frame[at + 2]) {
        is.attribute = (int)word_at(frame + at);
        cover_all(message, is);
    }
}

static enum codec_identity ignore_ident(void *context, const char *ident) {
    return CODEC_ACCEPTED;
}
static void ignore_reply(void *context, const uint8_t *bytes, size_t length, enum codec_reply_when when) {
}
static void ignore_answer(void *context, const struct codec_answer *answer) {
}
static void ignore_fault(void *context, const struct stream_fault *fault) {
}

static void walk_vector(const struct vector *vector) {
    static const struct stream_sink sink = {.identify = ignore_ident,
                                            .message = take_message,
                                            .reply = ignore_reply,
                                            .answer = ignore_answer,
                                            .fault = ignore_fault};
    struct stream_counters counters = {0};
    struct walk walk = {0};
    enum stream_state state = STREAM_OPEN;
    stream_init(&walk.stream, vector->codec, &sink, &walk, &counters);
    for (size_t i = 0; i < vector->step_count && state == STREAM_OPEN; i++) {
        walk.bytes = vector->steps[i].bytes;
        walk.begin = walk.stream.offset;
        state = stream_feed(&walk.stream, walk.bytes, vector->steps[i].length, CODEC_END);
    }
    stream_free(&walk.stream);
}

static bool in_dictionary(const char *name) {
    for (size_t i = 1; i < FIELD_COUNT; i++)
        if (strcmp(field_table[i].name, name) == 0)
            return true;
    return false;
}

static void show_source(const struct source *source) {
    fprintf(stderr, "    frame type %d, data type %d, subtype %d, attribute %d\n", source->frame_type,
            source->data_type, source->subtype, source->attribute);
}

Test(magicyo, every_listed_parameter_comes_from_every_listed_source) {
    size_t count, missing = 0;
    const struct vector *vectors = vectors_all(&count);
    read_list();
    // All that the list has: a list that was not understood must not pass.
    cr_assert(pair_count == 195 && without_source_count == 9, "the list was read as %zu pairs and %zu names",
              pair_count, without_source_count);
    for (size_t i = 0; i < count; i++)
        if (strcmp(vectors[i].codec->name, "magicyo") == 0)
            walk_vector(&vectors[i]);
    for (size_t i = 0; i < without_source_count; i++)
        cr_expect(in_dictionary(names_without_source[i]), "%s is not in the dictionary",
                  names_without_source[i]);
    for (size_t i = 0; i < pair_count; i++) {
        cr_expect(in_dictionary(pairs[i].name), "%s is not in the dictionary", pairs[i].name);
        if (pairs[i].covered)
            continue;
        missing++;
        fprintf(stderr, "no vector produces %s from\n", pairs[i].name);
        show_source(&pairs[i].source);
    }
    cr_assert(missing == 0, "%zu of %zu pairs are not produced", missing, pair_count);
}
