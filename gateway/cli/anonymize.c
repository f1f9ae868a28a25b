// Captures without IMEIs; see anonymize.h.
//
// A number of the IMEI may be cut in two by chunks. So the bytes of a connection in one direction are put together,
// changed, and taken apart again.
#include "gateway/cli/anonymize.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/hex.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/channels/stream.h"

#define IMEI_DIGITS   15
#define IDENT_MIN     8 // characters that are not found by accident
#define PIECE_MIN     4 // bytes of a spelling that is cut off where bytes are missing
#define SPELLING_MAX  (4 * CODEC_IDENT_MAX)
#define SPELLINGS_MAX 32

struct spelling {
    size_t length;
    bool in_halves; // stands in halves of bytes, one in each element
    uint8_t was[SPELLING_MAX], is[SPELLING_MAX];
};

struct identity {
    char was[CODEC_IDENT_MAX + 1], is[CODEC_IDENT_MAX + 1];
    struct spelling spellings[SPELLINGS_MAX];
    size_t count;
};

struct identities {
    struct identity *list;
    size_t count;
};

// The bytes of a connection in one direction, without a gap; of a datagram.
struct run {
    uint8_t *was, *is;
    size_t length;
};

// --- made-up idents ---

static bool is_number(const char *text) {
    return *text != '\0' && strspn(text, "0123456789") == strlen(text);
}

// The last digit of an IMEI makes this a multiple of 10.
static unsigned luhn(const char *digits, size_t count) {
    unsigned sum = 0;
    for (size_t i = 0; i < count; i++) {
        unsigned digit = (unsigned)(digits[count - 1 - i] - '0') * (i % 2 == 1 ? 2 : 1);
        sum += digit > 9 ? digit - 9 : digit;
    }
    return sum % 10;
}

// 00 1… are the numbers of test devices.
static void make_up_imei(char *text, unsigned number) {
    snprintf(text, CODEC_IDENT_MAX + 1, "001%011u0", number);
    text[IMEI_DIGITS - 1] = (char)('0' + (10 - luhn(text, IMEI_DIGITS)) % 10);
}

// Letters become x and digits 0, the last ones the number.
static void make_up(const char *was, char *text, unsigned number) {
    size_t length = strlen(was);
    if (is_number(was) && length == IMEI_DIGITS) {
        make_up_imei(text, number);
        return;
    }
    strcpy(text, was);
    for (size_t i = length; i-- > 0;) {
        bool digit = isdigit((unsigned char)was[i]), letter = isalpha((unsigned char)was[i]);
        text[i] = digit ? (char)('0' + number % 10) : letter ? 'x' : was[i];
        number = digit ? number / 10 : number;
    }
}

// --- spellings ---

static void add_spelling(struct identity *identity, const void *was, const void *is, size_t length,
                         bool in_halves) {
    struct spelling *spelling = &identity->spellings[identity->count++];
    spelling->length = length;
    spelling->in_halves = in_halves;
    memcpy(spelling->was, was, length);
    memcpy(spelling->is, is, length);
}

static void hex_of(const void *bytes, size_t length, bool upper, char *text) {
    hex_write(bytes, length, text);
    for (char *c = text; upper && *c != '\0'; c++)
        *c = (char)toupper((unsigned char)*c);
}

// As bytes, and as the hexadecimal digits of these, which may stand as text.
static void add_bytes(struct identity *identity, const void *was, const void *is, size_t length) {
    char was_hex[SPELLING_MAX + 1], is_hex[SPELLING_MAX + 1];
    add_spelling(identity, was, is, length, false);
    for (int upper = 0; upper < 2; upper++) {
        hex_of(was, length, upper == 1, was_hex);
        hex_of(is, length, upper == 1, is_hex);
        add_spelling(identity, was_hex, is_hex, 2 * length, false);
    }
}

// A digit in each half of a byte, from either half on; swapped: the second digit stands in the first half.
static void add_halves(struct identity *identity, const char *was, const char *is, size_t length) {
    uint8_t was_halves[SPELLING_MAX], is_halves[SPELLING_MAX];
    for (size_t i = 0; i < length; i++) {
        was_halves[i] = (uint8_t)hex_digit(was[i]);
        is_halves[i] = (uint8_t)hex_digit(is[i]);
    }
    add_spelling(identity, was_halves, is_halves, length, true);
}

static void reverse(uint8_t *bytes, size_t length) {
    for (size_t i = 0; i < length / 2; i++) {
        uint8_t byte = bytes[i];
        bytes[i] = bytes[length - 1 - i];
        bytes[length - 1 - i] = byte;
    }
}

// A number of so many bytes, its last byte at the end or at the beginning.
static void add_number(struct identity *identity, uint64_t was, uint64_t is) {
    uint8_t was_bytes[8], is_bytes[8];
    char was_digits[17], is_digits[17];
    snprintf(was_digits, sizeof was_digits, "%" PRIx64, was);
    size_t digits = strlen(was_digits), length = (digits + 1) / 2;
    snprintf(is_digits, sizeof is_digits, "%0*" PRIx64, (int)digits, is);
    add_halves(identity, was_digits, is_digits, digits);
    add_spelling(identity, was_digits, is_digits, digits, false);
    for (size_t i = 0; i < digits; i++) {
        was_digits[i] = (char)toupper((unsigned char)was_digits[i]);
        is_digits[i] = (char)toupper((unsigned char)is_digits[i]);
    }
    add_spelling(identity, was_digits, is_digits, digits, false);
    for (size_t i = 0; i < length; i++) {
        was_bytes[i] = (uint8_t)(was >> 8 * i);
        is_bytes[i] = (uint8_t)(is >> 8 * i);
    }
    add_bytes(identity, was_bytes, is_bytes, length); // the last byte first
    reverse(was_bytes, length);
    reverse(is_bytes, length);
    add_bytes(identity, was_bytes, is_bytes, length);
}

// Without its last digit, which is a checksum, an IMEI says as much.
static void add_spellings(struct identity *identity) {
    size_t length = strlen(identity->was);
    size_t last = length - (is_number(identity->was) && length == IMEI_DIGITS ? 1 : 0);
    for (size_t digits = length; digits >= last; digits--) {
        char was[CODEC_IDENT_MAX + 1] = "", is[CODEC_IDENT_MAX + 1] = "";
        memcpy(was, identity->was, digits);
        memcpy(is, identity->is, digits);
        add_bytes(identity, was, is, digits);
        if (!is_number(was) || digits > 18)
            continue;
        add_halves(identity, was, is, digits);
        add_number(identity, strtoull(was, NULL, 10), strtoull(is, NULL, 10));
    }
}

static void add_identity(struct identities *identities, const char *ident) {
    for (size_t i = 0; i < identities->count; i++)
        if (strcmp(identities->list[i].was, ident) == 0)
            return;
    identities->list =
        must_have(reallocarray(identities->list, identities->count + 1, sizeof *identities->list));
    struct identity *identity = &identities->list[identities->count++];
    *identity = (struct identity){0};
    strcpy(identity->was, ident);
    make_up(ident, identity->is, (unsigned)identities->count);
    add_spellings(identity);
}

// --- which idents there are ---

static enum codec_identity on_identify(void *context, const char *ident) {
    add_identity(context, ident);
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

static void find_by_codec(struct identities *identities, const struct codec *codec, const struct run *run,
                          bool udp) {
    struct stream_counters counters = {0};
    struct stream stream;
    stream_init(&stream, codec, &sink, identities, &counters);
    stream.setting.transport = udp ? CODEC_UDP : CODEC_TCP;
    stream_feed(&stream, run->was, run->length, CODEC_END);
    stream_free(&stream);
}

// Fifteen digits in a row with a right checksum.
static void find_in_text(struct identities *identities, const struct run *run) {
    for (size_t at = 0, end; at < run->length; at = end + 1) {
        for (end = at; end < run->length && isdigit(run->was[end]); end++)
            ;
        char digits[IMEI_DIGITS + 1] = "";
        if (end - at != IMEI_DIGITS)
            continue;
        memcpy(digits, run->was + at, IMEI_DIGITS);
        if (luhn(digits, IMEI_DIGITS) == 0)
            add_identity(identities, digits);
    }
}

// --- changing bytes ---

static void replace_bytes(const struct run *run, const struct spelling *spelling) {
    const uint8_t *at = run->was;
    size_t left = run->length, length = spelling->length;
    while ((at = memmem(at, left, spelling->was, length)) != NULL) {
        memcpy(run->is + (at - run->was), spelling->is, length);
        at += length;
        left = run->length - (size_t)(at - run->was);
    }
}

// What of it stands at the beginning or the end, where the rest is missing.
static void replace_cut(const struct run *run, const struct spelling *spelling) {
    size_t length = spelling->length, most = length < run->length ? length : run->length + 1;
    for (size_t cut = most - 1; cut >= PIECE_MIN; cut--) {
        size_t end = run->length - cut;
        if (memcmp(run->was, spelling->was + length - cut, cut) == 0)
            memcpy(run->is, spelling->is + length - cut, cut);
        if (memcmp(run->was + end, spelling->was, cut) == 0)
            memcpy(run->is + end, spelling->is, cut);
    }
}

static unsigned shift_of(size_t half, bool swapped) {
    return (half % 2 == 0) == swapped ? 0 : 4;
}

static bool halves_stand_at(const struct run *run, const struct spelling *spelling, size_t half,
                            bool swapped) {
    for (size_t i = 0; i < spelling->length; i++)
        if ((run->was[(half + i) / 2] >> shift_of(half + i, swapped) & 15) != spelling->was[i])
            return false;
    return true;
}

static void replace_halves(const struct run *run, const struct spelling *spelling, bool swapped) {
    for (size_t half = 0; half + spelling->length <= 2 * run->length; half++) {
        if (!halves_stand_at(run, spelling, half, swapped))
            continue;
        for (size_t i = half; i < half + spelling->length; i++) {
            unsigned shift = shift_of(i, swapped);
            run->is[i / 2] =
                (uint8_t)((run->is[i / 2] & ~(15U << shift)) | (unsigned)spelling->is[i - half] << shift);
        }
    }
}

// Whole idents come last, so that they win over what is without the last digit.
static void replace(const struct run *run, const struct identity *identity) {
    for (size_t i = identity->count; i-- > 0;) {
        const struct spelling *spelling = &identity->spellings[i];
        if (spelling->in_halves) {
            replace_halves(run, spelling, false);
            replace_halves(run, spelling, true);
        } else {
            replace_cut(run, spelling);
            replace_bytes(run, spelling);
        }
    }
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
static void mend(const struct codec *codec, const struct run *run) {
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

// The number of the next chunk of the same run after number i, or chunk_count.
static size_t next_of_run(const struct capture_file *file, size_t i) {
    const struct capture_chunk *chunk = &file->chunks[i];
    if (file->connections[chunk->connection].udp)
        return file->chunk_count;
    for (size_t next = i + 1; next < file->chunk_count; next++) {
        const struct capture_chunk *other = &file->chunks[next];
        if (other->connection == chunk->connection && other->sent == chunk->sent)
            return other->gap ? file->chunk_count : next;
    }
    return file->chunk_count;
}

static struct run put_together(const struct capture_file *file, size_t first) {
    struct run run = {0};
    size_t at = 0;
    for (size_t i = first; i < file->chunk_count; i = next_of_run(file, i))
        run.length += file->chunks[i].length;
    run.was = must_have(malloc(run.length + 1));
    run.is = must_have(malloc(run.length + 1));
    for (size_t i = first; i < file->chunk_count; at += file->chunks[i].length, i = next_of_run(file, i))
        memcpy(run.was + at, file->chunks[i].bytes, file->chunks[i].length);
    memcpy(run.is, run.was, run.length);
    return run;
}

static void take_apart(const struct capture_file *file, size_t first, struct run *run) {
    size_t at = 0;
    for (size_t i = first; i < file->chunk_count; at += file->chunks[i].length, i = next_of_run(file, i))
        memcpy(file->chunks[i].bytes, run->is + at, file->chunks[i].length);
    free(run->was);
    free(run->is);
}

// Which chunks begin a run, for the caller to free.
static bool *beginnings(const struct capture_file *file) {
    bool *begins = must_have(malloc(file->chunk_count + 1));
    memset(begins, true, file->chunk_count + 1);
    for (size_t i = 0; i < file->chunk_count; i++)
        begins[next_of_run(file, i)] = false;
    return begins;
}

// --- the whole ---

static void look_for_idents(const struct capture_file *file, const bool *begins,
                            struct identities *identities) {
    for (size_t i = 0; i < file->connection_count; i++)
        if (file->connections[i].ident[0] != '\0')
            add_identity(identities, file->connections[i].ident);
    for (size_t i = 0; i < file->chunk_count; i++) {
        const struct capture_connection *connection = &file->connections[file->chunks[i].connection];
        if (!begins[i])
            continue;
        struct run run = put_together(file, i);
        if (connection->codec != NULL)
            find_by_codec(identities, connection->codec, &run, connection->udp);
        find_in_text(identities, &run);
        take_apart(file, i, &run);
    }
}

static void change_bytes(const struct capture_file *file, const bool *begins,
                         const struct identities *identities) {
    for (size_t i = 0; i < file->chunk_count; i++) {
        const struct codec *codec = file->connections[file->chunks[i].connection].codec;
        if (!begins[i])
            continue;
        struct run run = put_together(file, i);
        for (size_t k = 0; k < identities->count; k++)
            replace(&run, &identities->list[k]);
        if (codec != NULL && codec->seal != NULL)
            mend(codec, &run);
        take_apart(file, i, &run);
    }
}

static void change_names(struct capture_file *file, const struct identities *identities) {
    free(file->title);
    file->title = must_have(strdup("anonymized: IMEIs, addresses and names are made up"));
    for (size_t i = 0; i < file->connection_count; i++) {
        struct capture_connection *connection = &file->connections[i];
        snprintf(connection->label, CAPTURE_LABEL_MAX, "gateway/%zu", i + 1);
        if (connection->source[0] != '\0')
            snprintf(connection->source, sizeof connection->source, "192.0.2.1:%zu", i + 1);
        for (size_t k = 0; k < identities->count; k++)
            if (strcmp(connection->ident, identities->list[k].was) == 0) {
                strcpy(connection->ident, identities->list[k].is);
                break;
            }
    }
}

char *anonymize(struct capture_file *file) {
    struct identities identities = {0};
    char *reason = NULL;
    bool *begins = beginnings(file);
    look_for_idents(file, begins, &identities);
    for (size_t i = 0; i < identities.count && reason == NULL; i++)
        if (strlen(identities.list[i].was) < IDENT_MIN)
            reason = text_format("the ident '%s' is too short to be told from other bytes",
                                 identities.list[i].was);
    if (reason == NULL) {
        change_bytes(file, begins, &identities);
        change_names(file, &identities);
    }
    free(identities.list);
    free(begins);
    return reason;
}
