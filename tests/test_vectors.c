// Every vector, whole and with all the multipliers: what a network does to bytes must not change what they
// say.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gateway/commands/parse.h"
#include "tests/bytes.h"
#include "tests/each_vector.h"
#include "tests/replay.h"

static void show(const struct replay *replay) {
    for (size_t i = 0; i < replay->count; i++)
        fprintf(stderr, "    came: %s\n", replay->lines[i]);
}

// Compares what came with the expected lines, times in a row; only_content leaves the faults out. Of a case
// that is a retransmission the second time the messages are expected once.
static void check_lines(const struct vector *vector, const struct replay *replay, bool only_content,
                        size_t times, const char *how, size_t at) {
    size_t next = 0;
    for (size_t i = 0; i < times * vector->expected_count; i++) {
        const char *expected = vector->expected[i % vector->expected_count];
        bool repeated = i >= vector->expected_count && vector->repeats;
        if ((only_content && !replay_is_content(expected)) ||
            (repeated && strncmp(expected, "message ", 8) == 0))
            continue;
        while (only_content && next < replay->count && !replay_is_content(replay->lines[next]))
            next++;
        if (next == replay->count || strcmp(replay->lines[next], expected) != 0)
            show(replay);
        cr_assert(next < replay->count, "%s, %s %zu: missing: %s", vector->path, how, at, expected);
        cr_assert_str_eq(replay->lines[next], expected, "%s, %s %zu:\n expected %s\n came     %s",
                         vector->path, how, at, expected, replay->lines[next]);
        next++;
    }
    while (only_content && next < replay->count && !replay_is_content(replay->lines[next]))
        next++;
    cr_assert(next == replay->count, "%s, %s %zu: too much: %s", vector->path, how, at,
              next < replay->count ? replay->lines[next] : "");
    cr_assert(replay->schema_faults == 0, "%s, %s %zu: the schema does not allow it", vector->path, how, at);
}

static enum codec_follow last_follow(const struct vector *vector) {
    return vector->end_open ? CODEC_OPEN : CODEC_END;
}

static void feed_steps(struct replay *replay, const struct vector *vector) {
    for (size_t i = 0; i < vector->step_count; i++) {
        const struct vector_step *step = &vector->steps[i];
        if (step->kind == STEP_QUIET)
            replay_feed(replay, NULL, 0, CODEC_QUIET);
        else
            replay_feed(replay, step->bytes, step->length, vector->udp ? CODEC_END : CODEC_OPEN);
    }
    replay_feed(replay, NULL, 0, last_follow(vector));
}

FOR_EACH_VECTOR(vectors, whole) {
    struct replay replay;
    replay_begin_vector(&replay, vector);
    feed_steps(&replay, vector);
    check_lines(vector, &replay, false, 1, "whole", 0);
    replay_end(&replay);
}

// The multipliers below are for streams: one step, no silences, and no end by junk.
static bool is_stream(const struct vector *vector) {
    return vector->step_count == 1 && !vector->udp;
}

FOR_EACH_VECTOR(vectors, byte_by_byte) {
    struct replay replay;
    if (!is_stream(vector))
        return;
    replay_begin_vector(&replay, vector);
    for (size_t i = 0; i < vector->steps[0].length; i++)
        replay_feed(&replay, vector->steps[0].bytes + i, 1, CODEC_OPEN);
    replay_feed(&replay, NULL, 0, last_follow(vector));
    check_lines(vector, &replay, true, 1, "byte by byte", 0);
    replay_end(&replay);
}

FOR_EACH_VECTOR(vectors, every_split) {
    if (!is_stream(vector))
        return;
    for (size_t at = 0; at <= vector->steps[0].length; at++) {
        struct replay replay;
        replay_begin_vector(&replay, vector);
        replay_feed(&replay, vector->steps[0].bytes, at, CODEC_OPEN);
        replay_feed(&replay, vector->steps[0].bytes + at, vector->steps[0].length - at, CODEC_OPEN);
        replay_feed(&replay, NULL, 0, last_follow(vector));
        check_lines(vector, &replay, true, 1, "split at", at);
        replay_end(&replay);
    }
}

// What comes of a beginning is a beginning of what comes of the whole; and an end there breaks nothing.
FOR_EACH_VECTOR(vectors, every_truncation) {
    if (!is_stream(vector))
        return;
    for (size_t at = 0; at < vector->steps[0].length; at++) {
        struct replay replay;
        size_t expected = 0;
        replay_begin_vector(&replay, vector);
        replay_feed(&replay, vector->steps[0].bytes, at, CODEC_OPEN);
        for (size_t i = 0; i < replay.count; i++) {
            if (!replay_is_content(replay.lines[i]))
                continue;
            while (expected < vector->expected_count && !replay_is_content(vector->expected[expected]))
                expected++;
            cr_assert(expected < vector->expected_count, "%s, cut at %zu: too much", vector->path, at);
            cr_assert_str_eq(replay.lines[i], vector->expected[expected], "%s, cut at %zu", vector->path, at);
            expected++;
        }
        replay_feed(&replay, NULL, 0, CODEC_QUIET);
        replay_feed(&replay, NULL, 0, CODEC_END);
        cr_assert(!stream_waits(&replay.stream), "%s, cut at %zu: bytes are left after the end", vector->path,
                  at);
        cr_assert(replay.schema_faults == 0, "%s, cut at %zu: the schema does not allow it", vector->path,
                  at);
        replay_end(&replay);
    }
}

FOR_EACH_VECTOR(vectors, junk_before) {
    static const uint8_t junk[] = {0x00, 0xff, 0x01, 'j', 'u', 'n', 'k', 0x80, 0xfe};
    struct replay replay;
    if (!is_stream(vector))
        return;
    replay_begin_vector(&replay, vector);
    replay_feed(&replay, junk, sizeof junk, CODEC_OPEN);
    feed_steps(&replay, vector);
    check_lines(vector, &replay, true, 1, "junk before", 0);
    cr_assert(replay.counters.junk_bytes >= sizeof junk);
    replay_end(&replay);
}

FOR_EACH_VECTOR(vectors, back_to_back) {
    struct replay replay;
    if (!is_stream(vector) || vector->alone || vector->end_open)
        return;
    size_t length = vector->steps[0].length;
    uint8_t *twice = malloc(2 * length + 1);
    memcpy(twice, vector->steps[0].bytes, length);
    memcpy(twice + length, vector->steps[0].bytes, length);
    replay_begin_vector(&replay, vector);
    replay_feed(&replay, twice, 2 * length, CODEC_END);
    check_lines(vector, &replay, true, 2, "back to back", 0);
    replay_end(&replay);
    free(twice);
}

// The bytes end where the mapped memory ends: one byte too far is a crash.
FOR_EACH_VECTOR(vectors, guard_page) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = 32 * page;
    uint8_t *memory = mmap(NULL, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert(memory != MAP_FAILED && mprotect(memory + size, page, PROT_NONE) == 0);
    for (size_t i = 0; i < vector->step_count; i++) {
        const struct vector_step *step = &vector->steps[i];
        for (size_t length = 1; step->kind == STEP_UP && length <= step->length && length < size; length++) {
            static const enum codec_follow follows[] = {CODEC_OPEN, CODEC_QUIET, CODEC_END};
            uint8_t *bytes = memory + size - length;
            memcpy(bytes, step->bytes, length);
            for (size_t f = 0; f < 3; f++) {
                struct replay replay;
                replay_begin_vector(&replay, vector);
                replay_feed(&replay, bytes, length, follows[f]);
                replay_end(&replay);
            }
        }
    }
    munmap(memory, size + page);
}

// What comes of bytes, counted only.
struct outcome {
    size_t content;
    unsigned schema_faults;
};

static struct outcome outcome_of(const struct vector *vector, const uint8_t *bytes, size_t length) {
    struct replay replay;
    replay_begin_vector(&replay, vector);
    replay.counts_only = true;
    replay_feed(&replay, bytes, length, CODEC_END);
    struct outcome outcome = {replay.content, replay.schema_faults};
    replay_end(&replay);
    return outcome;
}

static struct outcome outcome_of_flip(const struct vector *vector, uint8_t *bytes, size_t length,
                                      size_t bit) {
    bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
    struct outcome outcome = outcome_of(vector, bytes, length);
    bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
    return outcome;
}

// A flipped bit may change a value of a protocol without a checksum, but never breaks anything.
FOR_EACH_VECTOR_SHARED(vectors, every_bit_flip) {
    for (size_t i = 0; i < vector->step_count; i++) {
        const struct vector_step *step = &vector->steps[i];
        for (size_t bit = share; step->kind == STEP_UP && bit < 8 * step->length && bit < 8 * 4096;
             bit += SHARES)
            cr_assert(outcome_of_flip(vector, step->bytes, step->length, bit).schema_faults == 0,
                      "%s, bit %zu: the schema does not allow it", vector->path, bit);
    }
}

// Whether the frame has a checksum that finds every flipped bit, and it is right.
static bool is_sealed(const struct codec *codec, const uint8_t *frame, size_t length) {
    uint8_t *copy = malloc(length);
    memcpy(copy, frame, length);
    bool sealed = codec->seal != NULL && codec->seal(copy, length) && memcmp(copy, frame, length) == 0;
    free(copy);
    return sealed;
}

static void flip_each_bit(const struct vector *vector, uint8_t *frame, size_t length, size_t share) {
    for (size_t bit = share; bit < 8 * length; bit += SHARES)
        cr_assert(outcome_of_flip(vector, frame, length, bit).content == 0,
                  "%s: a frame of %zu bytes with bit %zu flipped is accepted", vector->path, length, bit);
}

// Of a frame with a checksum nothing is accepted any more once a bit was flipped.
FOR_EACH_VECTOR_SHARED(vectors, checksum_finds_every_bit_flip) {
    for (size_t i = 0; i < vector->step_count; i++) {
        const struct vector_step *step = &vector->steps[i];
        for (size_t at = 0; step->kind == STEP_UP && at < step->length;) {
            size_t left = step->length - at, window = vector->codec->frame_max;
            struct codec_frame frame =
                vector->codec->frame(step->bytes + at, left < window ? left : window, CODEC_END);
            if (frame.kind == CODEC_MORE || frame.kind == CODEC_BAD)
                break;
            if (frame.kind == CODEC_READY && is_sealed(vector->codec, step->bytes + at, frame.length))
                flip_each_bit(vector, step->bytes + at, frame.length, share);
            at += frame.length;
        }
    }
}

static void check_down(const struct vector *vector, const char *expected, size_t skip, const uint8_t *bytes,
                       size_t length, bool hex) {
    size_t expected_length;
    uint8_t *down = hex ? bytes_unhex(expected + skip, &expected_length)
                        : vector_unescape(expected + skip, &expected_length);
    cr_assert(length == expected_length && memcmp(bytes, down, length) == 0, "%s: expected %s, came %.*s",
              vector->path, expected, (int)length, bytes);
    free(down);
}

// Encodes a command to the device that spoke last; the reason when it is refused, for the caller to free.
static char *encode(struct replay *replay, const char *text, struct codec_writer *writer,
                    struct codec_expectation *expectation) {
    const struct codec *codec = replay->stream.codec;
    struct codec_setting setting = replay->stream.setting;
    const char *ident = replay->stream.ident;
    char *fault = NULL;
    size_t length;
    uint8_t *payload = vector_unescape(text, &length);
    json_t *commands = command_parse((const char *)payload, length, &fault);
    free(payload);
    if (commands == NULL)
        return fault;
    fault = command_check(json_array_get(commands, 0), codec);
    writer->length = 0;
    setting.ident = *ident != '\0' ? ident : NULL;
    if (fault == NULL)
        fault = command_encode(json_array_get(commands, 0), codec, stream_session(&replay->stream, ident),
                               &setting, writer, expectation);
    json_decref(commands);
    return fault;
}

FOR_EACH_VECTOR(vectors, commands) {
    uint8_t bytes[CODEC_COMMAND_MAX];
    struct codec_writer writer = {.bytes = bytes, .capacity = sizeof bytes};
    struct codec_expectation expectation;
    struct replay replay; // of what the device sent, so that its session is known
    char *fault = NULL;
    replay_begin_vector(&replay, vector);
    feed_steps(&replay, vector);
    for (size_t i = 0; i < vector->command_count; i++) {
        const char *line = vector->commands[i];
        if (strncmp(line, "command ", 8) == 0) {
            free(fault);
            fault = encode(&replay, line + 8, &writer, &expectation);
        } else if (strncmp(line, "refused ", 8) == 0) {
            cr_assert(fault != NULL, "%s: was not refused: %s", vector->path, vector->commands[i - 1]);
            cr_assert_str_eq(fault, line + 8, "%s: expected %s, came %s", vector->path, line, fault);
        } else {
            cr_assert(fault == NULL, "%s: %s: refused: %s", vector->path, line, fault);
        }
        if (strncmp(line, "down ", 5) == 0)
            check_down(vector, line, 5, bytes, writer.length, false);
        if (strncmp(line, "down-hex ", 9) == 0)
            check_down(vector, line, 9, bytes, writer.length, true);
        if (strncmp(line, "expects", 7) == 0)
            cr_assert_str_eq(expectation.key, line + 7 + (line[7] == ' '), "%s", vector->path);
    }
    free(fault);
    replay_end(&replay);
}

// --- constant fills, for every codec ---

static const struct codec *codec_or_template(size_t index) {
    const struct codec *codec = codec_at(index);
    return codec != NULL ? codec : vector_codec("template");
}

static size_t codec_count(void) {
    size_t count = 0;
    while (codec_at(count) != NULL)
        count++;
    return count + 1;
}

Test(codecs, constant_fills_yield_nothing) {
    static const uint8_t fills[] = {0x00, 0xff, 0x55, 0xaa};
    static uint8_t bytes[4096];
    for (size_t c = 0; c < codec_count(); c++) {
        for (size_t f = 0; f < sizeof fills; f++) {
            memset(bytes, fills[f], sizeof bytes);
            for (size_t length = 1; length <= sizeof bytes; length += length < 128 ? 1 : 31) {
                struct replay replay;
                replay_begin(&replay, codec_or_template(c));
                replay_feed(&replay, bytes, length, CODEC_END);
                for (size_t i = 0; i < replay.count; i++)
                    cr_assert(!replay_is_content(replay.lines[i]), "%s of %02x: %s",
                              replay.stream.codec->name, fills[f], replay.lines[i]);
                replay_end(&replay);
            }
        }
    }
}

Test(codecs, endless_junk_breaks_the_stream_within_bounds) {
    static uint8_t bytes[65536];
    for (size_t c = 0; c < codec_count(); c++) {
        struct replay replay;
        size_t fed = 0;
        memset(bytes, 0x01, sizeof bytes);
        replay_begin(&replay, codec_or_template(c));
        while (replay.state == STREAM_OPEN && fed < sizeof bytes)
            replay_feed(&replay, bytes + fed++, 1, CODEC_OPEN);
        cr_assert(replay.state == STREAM_NOT_THIS_PROTOCOL);
        cr_assert(fed <= replay.stream.codec->junk_max + replay.stream.codec->frame_max, "%s took %zu bytes",
                  replay.stream.codec->name, fed);
        replay_end(&replay);
    }
}
