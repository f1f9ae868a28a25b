// Explanations: of every frame that a codec accepts, each byte and bit is named, once; and the field that it
// is said to become is one that the frame gives.
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "codecs/explain.h"
#include "gateway/channels/stream.h"
#include "tests/bytes.h"
#include "tests/each_vector.h"

#define BITS_MAX (8 * 4096)

struct trial {
    const struct vector *vector;
    size_t frames;
    bool given[FIELD_COUNT];
};

static struct explanation explanation;

static enum codec_identity accept(void *context, const char *ident) {
    struct trial *trial = context;
    trial->given[FIELD_IDENT] = true;
    return CODEC_ACCEPTED;
}

static void note_message(void *context, struct message *message) {
    struct trial *trial = context;
    for (size_t i = 0; i < message->count; i++)
        trial->given[message->values[i].field] = true;
    for (size_t i = 0; i < message->removed_count && i < MESSAGE_REMOVED_MAX; i++)
        trial->given[message->removed[i].field] = true;
    for (size_t i = 0; i < FIELD_COUNT; i++) // an empty place of a list gives none of its members
        if (field_table[i].list != FIELD_NONE && trial->given[field_table[i].list])
            trial->given[i] = true;
}

static void ignore_reply(void *context, const uint8_t *bytes, size_t length, enum codec_reply_when when) {
}

static void ignore_answer(void *context, const struct codec_answer *answer) {
}

static void ignore_fault(void *context, const struct stream_fault *fault) {
}

// How often each bit of the frame is named.
static void count_bits(const struct trial *trial, const struct stream_frame *frame,
                       unsigned char named[BITS_MAX]) {
    for (size_t i = 0; i < explanation.count; i++) {
        const struct explain_piece *piece = &explanation.entries[i].piece;
        cr_assert(piece->bytes >= frame->bytes &&
                      piece->bytes + piece->length <= frame->bytes + frame->length,
                  "%s: a piece lies outside of the frame", trial->vector->path);
        size_t first = (size_t)(piece->bytes - frame->bytes) * 8 + piece->bit;
        size_t bits = piece->bits > 0 ? piece->bits : piece->length * 8;
        for (size_t bit = first; bit < first + bits; bit++)
            named[bit]++;
    }
}

static void check_fields(const struct trial *trial) {
    for (size_t i = 0; i < explanation.count; i++) {
        const struct explain_entry *entry = &explanation.entries[i];
        cr_assert(entry->piece.field != FIELD_NONE || entry->piece.name != NULL,
                  "%s: a piece is neither field nor name (%s)", trial->vector->path, entry->row);
        cr_assert(trial->given[entry->piece.field] || entry->piece.name != NULL,
                  "%s: %s (%s) is said of a frame that gives none", trial->vector->path,
                  field_table[entry->piece.field].name, entry->row);
        cr_assert_str_neq(entry->row, "", "%s: a piece comes from no table", trial->vector->path);
    }
}

static void check_frame(void *context, const struct stream_frame *frame) {
    static unsigned char named[BITS_MAX];
    struct trial *trial = context;
    const char *separators = trial->vector->codec->separators;
    trial->frames++;
    memset(named, 0, sizeof named);
    count_bits(trial, frame, named);
    for (size_t bit = 0; bit < frame->length * 8; bit++) {
        char c = (char)frame->bytes[bit / 8];
        bool parts = separators != NULL && c != '\0' && strchr(separators, c) != NULL;
        bool open = frame->verdict != CODEC_OK; // not read to its end
        cr_assert(named[bit] <= 1, "%s: bit %zu of byte %zu (%02x) is named twice", trial->vector->path,
                  bit % 8, bit / 8, frame->bytes[bit / 8]);
        cr_assert(named[bit] == 1 || parts || open, "%s: bit %zu of byte %zu (%02x) is not named",
                  trial->vector->path, bit % 8, bit / 8, frame->bytes[bit / 8]);
    }
    if (frame->verdict == CODEC_OK)
        check_fields(trial);
    memset(trial->given, 0, sizeof trial->given);
}

static const struct stream_sink sink = {.identify = accept,
                                        .message = note_message,
                                        .reply = ignore_reply,
                                        .answer = ignore_answer,
                                        .fault = ignore_fault,
                                        .frame = check_frame};

FOR_EACH_VECTOR(explain, names_every_byte) {
    struct stream stream;
    struct stream_counters counters = {0};
    struct trial trial = {.vector = vector};
    stream_init(&stream, vector->codec, &sink, &trial, &counters);
    stream.explanation = &explanation;
    stream.setting.now = vector->now;
    stream.setting.transport = vector->udp ? CODEC_UDP : CODEC_TCP;
    stream.setting.options = vector->options;
    for (size_t i = 0; i < vector->step_count; i++) {
        enum codec_follow follow = vector->steps[i].kind == STEP_QUIET ? CODEC_QUIET
                                   : vector->udp                       ? CODEC_END
                                                                       : CODEC_OPEN;
        stream_feed(&stream, vector->steps[i].bytes, vector->steps[i].length, follow);
    }
    stream_feed(&stream, NULL, 0, vector->end_open ? CODEC_OPEN : CODEC_END);
    stream_free(&stream);
    size_t expected = 0;
    for (size_t i = 0; i < CODEC_VERDICT_COUNT; i++)
        expected += (size_t)counters.verdicts[i];
    cr_assert_eq(trial.frames, expected, "%s: %zu frames are explained, not %zu", vector->path, trial.frames,
                 expected);
}

static struct stream_frame last;
static uint8_t last_bytes[1024];

static void keep_frame(void *context, const struct stream_frame *frame) {
    last = *frame;
    memcpy(last_bytes, frame->bytes, frame->length);
}

static const struct stream_sink keeper = {.identify = accept,
                                          .message = note_message,
                                          .reply = ignore_reply,
                                          .answer = ignore_answer,
                                          .fault = ignore_fault,
                                          .frame = keep_frame};

static const struct explain_entry *find(enum field field) {
    for (size_t i = 0; i < explanation.count; i++)
        if (explanation.entries[i].piece.field == field)
            return &explanation.entries[i];
    return NULL;
}

static void explain_one(const char *protocol, const uint8_t *bytes, size_t length) {
    struct stream stream;
    struct stream_counters counters = {0};
    struct trial trial = {0};
    stream_init(&stream, codec_find(protocol), &keeper, &trial, &counters);
    stream.explanation = &explanation;
    stream_feed(&stream, bytes, length, CODEC_END);
    stream_free(&stream);
}

// Where a row of a table says "assumed", so does the explanation of what came from it.
Test(explain, says_what_is_assumed) {
    size_t length;
    uint8_t *bytes = bytes_unhex("55550030383634383637303232353131303135030056001204015f5e10000106000212340ab"
                                 "cde01004b854206b5aaaa",
                                 &length);
    explain_one("magicyo", bytes, length);
    const struct explain_entry *ident = find(FIELD_IDENT);
    cr_assert_not_null(ident);
    cr_assert_eq(ident->piece.length, 15);
    cr_assert(!ident->piece.assumed);
    cr_assert_str_eq(ident->row, "v2_parts item 3");
    const struct explain_entry *signal = find(FIELD_GSM_SIGNAL_LEVEL), *cell = find(FIELD_GSM_CELLID);
    cr_assert(signal->piece.assumed && cell->piece.assumed);
    cr_assert_str_eq(signal->row, "records 04/01 item 4");
    cr_assert_str_eq(cell->row, "cell_items item 4");
    free(bytes);
}

// Bits that are no whole bytes.
Test(explain, names_bits) {
    const char *report = "MT;6;866425031361423;R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+113\r\n";
    explain_one("mictrack", (const uint8_t *)report, strlen(report));
    const struct explain_entry *latitude = find(FIELD_POSITION_LATITUDE);
    cr_assert_not_null(latitude);
    cr_assert_eq(latitude->piece.length, strlen("22.63827"));
    cr_assert_eq(memcmp(latitude->piece.bytes, "22.63827", 8), 0);
    cr_assert_str_eq(latitude->row, "layouts R0 item 3");
    cr_assert(!latitude->piece.assumed);
}
