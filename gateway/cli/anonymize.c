// Captures without IMEIs; see anonymize.h.
//
// A number of the IMEI may be cut in two by chunks. So the bytes of a connection in one direction are put together,
// changed, and taken apart again.
#include "gateway/cli/anonymize.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/channels/stream.h"
#include "gateway/cli/spellings.h"

#define IMEI_DIGITS 15

struct work {
    struct capture_file *file;
    size_t *next;                          // of each chunk the next one of its run, or chunk_count
    bool *begins;                          // whether a chunk begins a run
    bool *identified;                      // of each connection
    bool *left_out;                        // the same, whether its ident is too short
    size_t left_count;                     // how many of them
    char short_ident[CODEC_IDENT_MAX + 1]; // of one of them
    size_t connection;                     // that is looked at
    struct spellings *spellings;
};

// --- which idents there are ---

bool anonymize_can(const char *ident) {
    return strlen(ident) >= ANONYMIZE_IDENT_MIN;
}

static void note_ident(struct work *work, const char *ident) {
    if (anonymize_can(ident)) {
        spellings_add(work->spellings, ident);
        return;
    }
    work->left_count += !work->left_out[work->connection];
    work->left_out[work->connection] = true;
    strcpy(work->short_ident, ident);
}

static void note_own_ident(struct work *work, const char *ident) {
    work->identified[work->connection] = true;
    note_ident(work, ident);
}

static enum codec_identity on_identify(void *context, const char *ident) {
    note_own_ident(context, ident);
    return CODEC_ACCEPTED;
}

static void on_message(void *context, struct message *message) {
}

static void on_reply(void *context, const uint8_t *bytes, size_t length, enum codec_reply_when when) {
}

static void on_answer(void *context, const struct codec_answer *answer) {
}

static void on_fault(void *context, const struct stream_fault *fault) {
}

static bool on_goodbye(void *context, const char *ident) {
    return false;
}

static const struct stream_sink sink = {.identify = on_identify,
                                        .message = on_message,
                                        .reply = on_reply,
                                        .answer = on_answer,
                                        .fault = on_fault,
                                        .goodbye = on_goodbye};

static void find_by_codec(struct work *work, const struct spellings_run *run) {
    const struct capture_connection *connection = &work->file->connections[work->connection];
    struct stream_counters counters = {0};
    struct stream stream;
    stream_init(&stream, connection->codec, &sink, work, &counters);
    stream.setting.transport = connection->udp ? CODEC_UDP : CODEC_TCP;
    stream_feed(&stream, run->was, run->length, CODEC_END);
    stream_free(&stream);
}

static void note_digits(struct work *work, const uint8_t *bytes) {
    char digits[IMEI_DIGITS + 1] = "";
    memcpy(digits, bytes, IMEI_DIGITS);
    note_ident(work, digits);
}

// Fifteen digits in a row, also with a wrong checksum.
static void find_in_text(struct work *work, const struct spellings_run *run) {
    for (size_t at = 0, end; at < run->length; at = end + 1) {
        for (end = at; end < run->length && isdigit(run->was[end]); end++)
            ;
        if (end - at == IMEI_DIGITS)
            note_digits(work, run->was + at);
    }
}

// --- connections that never said who they are ---

// digits: in each element one, as a number or a character that stands for one; anything else ends an IMEI.
static bool is_imei_at(const uint8_t *digits, char zero) {
    char text[IMEI_DIGITS + 1] = "";
    for (size_t i = 0; i < IMEI_DIGITS; i++) {
        if (digits[i] < zero || digits[i] > zero + 9)
            return false;
        text[i] = (char)('0' + digits[i] - zero);
    }
    return strncmp(text, "00", 2) != 0 && spellings_is_imei(text);
}

// Digits as text are digits in halves of bytes as well.
static bool is_text(const uint8_t *bytes, size_t length) {
    while (length > 0 && isdigit(bytes[length - 1]))
        length--;
    return length == 0;
}

static void note_packed(struct work *work, const uint8_t *halves) {
    uint8_t digits[IMEI_DIGITS];
    for (size_t i = 0; i < IMEI_DIGITS; i++)
        digits[i] = (uint8_t)('0' + halves[i]);
    note_digits(work, digits);
}

static void find_packed(struct work *work, const struct spellings_run *run, bool swapped) {
    uint8_t *halves = must_have(malloc(2 * run->length + 1));
    spellings_halves(run->was, run->length, swapped, halves);
    for (size_t at = 0; at + IMEI_DIGITS <= 2 * run->length; at++)
        if (is_imei_at(halves + at, 0) && !is_text(run->was + at / 2, (at % 2 + IMEI_DIGITS + 1) / 2))
            note_packed(work, halves + at);
    free(halves);
}

// Nothing tells where an IMEI stands: whatever has its checksum counts as one, also among more digits.
static void look_into_strangers(struct work *work, const struct spellings_run *run) {
    if (work->identified[work->connection])
        return;
    for (size_t at = 0; at + IMEI_DIGITS <= run->length; at++)
        if (is_imei_at(run->was + at, '0'))
            note_digits(work, run->was + at);
    find_packed(work, run, false);
    find_packed(work, run, true);
}

// --- checksums ---

static bool was_sealed(const struct codec *codec, const uint8_t *frame, size_t length) {
    uint8_t *copy = must_have(malloc(length));
    memcpy(copy, frame, length);
    bool sealed = codec->seal(copy, length) && memcmp(copy, frame, length) == 0;
    free(copy);
    return sealed;
}

// Frames stand where they stood. One whose checksum was wrong keeps a wrong one.
static void mend(const struct codec *codec, const struct spellings_run *run) {
    struct codec_frame frame;
    for (size_t at = 0; at < run->length; at += frame.length) {
        size_t left = run->length - at, window = left < codec->frame_max ? left : codec->frame_max;
        frame = codec->frame(run->was + at, window, CODEC_END);
        if (frame.kind == CODEC_MORE || frame.kind == CODEC_BAD)
            return;
        if (frame.kind == CODEC_READY && was_sealed(codec, run->was + at, frame.length))
            codec->seal(run->is + at, frame.length);
    }
}

// --- runs ---

// One pass from the end. A datagram is a run of its own, and one ends where bytes are missing.
static void find_runs(struct work *work) {
    const struct capture_file *file = work->file;
    size_t count = file->chunk_count, ways = 2 * file->connection_count;
    size_t *later = must_have(malloc((ways + 1) * sizeof *later)); // the next chunk that way
    for (size_t i = 0; i < ways; i++)
        later[i] = count;
    for (size_t i = count; i-- > 0;) {
        const struct capture_chunk *chunk = &file->chunks[i];
        size_t way = 2 * chunk->connection + chunk->sent, next = later[way];
        bool ends = file->connections[chunk->connection].udp || next == count || file->chunks[next].gap;
        work->next[i] = ends ? count : next;
        later[way] = i;
    }
    memset(work->begins, true, count + 1);
    for (size_t i = 0; i < count; i++)
        work->begins[work->next[i]] = false;
    free(later);
}

static struct spellings_run put_together(const struct work *work, size_t first) {
    const struct capture_chunk *chunks = work->file->chunks;
    size_t at = 0, end = work->file->chunk_count;
    struct spellings_run run = {0};
    for (size_t i = first; i < end; i = work->next[i])
        run.length += chunks[i].length;
    run.was = must_have(malloc(run.length + 1));
    run.is = must_have(malloc(run.length + 1));
    for (size_t i = first; i < end; at += chunks[i].length, i = work->next[i])
        memcpy(run.was + at, chunks[i].bytes, chunks[i].length);
    memcpy(run.is, run.was, run.length);
    return run;
}

static void take_apart(const struct work *work, size_t first, struct spellings_run *run) {
    const struct capture_chunk *chunks = work->file->chunks;
    size_t at = 0;
    for (size_t i = first; i < work->file->chunk_count; at += chunks[i].length, i = work->next[i])
        memcpy(chunks[i].bytes, run->is + at, chunks[i].length);
    free(run->was);
    free(run->is);
}

static void each_run(struct work *work, void (*take)(struct work *, const struct spellings_run *)) {
    for (size_t i = 0; i < work->file->chunk_count; i++) {
        work->connection = work->file->chunks[i].connection;
        if (!work->begins[i] || work->left_out[work->connection])
            continue;
        struct spellings_run run = put_together(work, i);
        take(work, &run);
        take_apart(work, i, &run);
    }
}

// --- the whole ---

static void look_into(struct work *work, const struct spellings_run *run) {
    if (work->file->connections[work->connection].codec != NULL)
        find_by_codec(work, run);
    find_in_text(work, run);
}

static void look_for_idents(struct work *work) {
    const struct capture_file *file = work->file;
    for (work->connection = 0; work->connection < file->connection_count; work->connection++)
        if (file->connections[work->connection].ident[0] != '\0')
            note_own_ident(work, file->connections[work->connection].ident);
    each_run(work, look_into);
    each_run(work, look_into_strangers);
}

// A device may have come to the channel of another protocol: each protocol's frames are looked for.
static void change(struct work *work, const struct spellings_run *run) {
    const struct codec *codec;
    spellings_replace(work->spellings, run);
    for (size_t i = 0; (codec = codec_at(i)) != NULL; i++)
        if (codec->seal != NULL)
            mend(codec, run);
}

static void change_names(const struct work *work) {
    struct capture_file *file = work->file;
    free(file->title);
    file->title = must_have(strdup("anonymized: IMEIs, addresses and names are made up"));
    for (size_t i = 0; i < file->connection_count; i++) {
        struct capture_connection *connection = &file->connections[i];
        const char *made_up = spellings_made_up(work->spellings, connection->ident);
        snprintf(connection->label, CAPTURE_LABEL_MAX, "gateway/%zu", i + 1);
        if (connection->source[0] != '\0')
            snprintf(connection->source, sizeof connection->source, "192.0.2.1:%zu", i + 1);
        if (made_up != NULL)
            strcpy(connection->ident, made_up);
    }
}

static size_t count_strangers(const struct work *work) {
    size_t count = 0;
    for (size_t i = 0; i < work->file->connection_count; i++)
        count += !work->identified[i] && !work->left_out[i];
    return count;
}

// What there is to say; NULL: nothing.
static char *tell(const struct work *work, size_t strangers) {
    char *left_out = NULL, *read_it = NULL;
    if (work->left_count > 0)
        left_out = text_format(
            "%zu connection%s left out, because the ident '%s' is too short to be told from other bytes",
            work->left_count, work->left_count == 1 ? " is" : "s are", work->short_ident);
    if (strangers > 0)
        read_it = text_format("%s%s%zu connection%s never said who %s: read the bytes before you give them "
                              "away, an IMEI in them may not have been found",
                              left_out != NULL ? left_out : "", left_out != NULL ? "; " : "", strangers,
                              TEXT_S(strangers), strangers == 1 ? "it is" : "they are");
    if (read_it == NULL)
        return left_out;
    free(left_out);
    return read_it;
}

char *anonymize(struct capture_file *file) {
    struct work work = {.file = file, .spellings = spellings_new()};
    work.next = must_have(malloc((file->chunk_count + 1) * sizeof *work.next));
    work.begins = must_have(malloc(file->chunk_count + 1));
    work.left_out = must_have(calloc(file->connection_count + 1, sizeof *work.left_out));
    work.identified = must_have(calloc(file->connection_count + 1, sizeof *work.identified));
    find_runs(&work);
    look_for_idents(&work);
    spellings_end(work.spellings);
    each_run(&work, change);
    char *said = tell(&work, count_strangers(&work));
    capture_file_leave_out(work.file, work.left_out);
    change_names(&work);
    spellings_free(work.spellings);
    free(work.next);
    free(work.begins);
    free(work.left_out);
    free(work.identified);
    return said;
}
