// The fuzz targets over what is committed: findings and corpus, and the vectors fed in many ways.
#include <criterion/criterion.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/each_vector.h"
#include "tests/fuzz/fuzz.h"
#include "tests/replay.h"
#include "tests/vector.h"

static uint8_t *read_file(const char *path, size_t *length) {
    FILE *file = fopen(path, "rb");
    cr_assert(file != NULL, "%s cannot be read", path);
    uint8_t *bytes = malloc(1 << 20);
    *length = fread(bytes, 1, 1 << 20, file);
    fclose(file);
    return bytes;
}

// The folder's name is the target's: stream-CODEC, command-CODEC or config.
static void run_target(const char *target, const uint8_t *bytes, size_t length) {
    const char *dash = strchr(target, '-');
    const struct codec *codec = dash != NULL ? vector_codec(dash + 1) : NULL;
    if (strcmp(target, "config") == 0)
        fuzz_config(bytes, length);
    else if (codec != NULL && strncmp(target, "stream-", 7) == 0)
        fuzz_stream(codec, bytes, length);
    else if (codec != NULL && strncmp(target, "command-", 8) == 0)
        fuzz_command(codec, bytes, length);
    else
        cr_assert_fail("tests/fuzz/corpus/%s: there is no such target", target);
}

Test(fuzz, corpus) {
    glob_t found;
    cr_assert_eq(glob(FUZZ_CORPUS "/*/*", 0, NULL, &found), 0, "there is none");
    for (size_t i = 0; i < found.gl_pathc; i++) {
        const char *path = found.gl_pathv[i] + strlen(FUZZ_CORPUS) + 1;
        char target[64];
        size_t length;
        snprintf(target, sizeof target, "%.*s", (int)strcspn(path, "/"), path);
        uint8_t *bytes = read_file(found.gl_pathv[i], &length);
        fuzz_subject = path;
        run_target(target, bytes, length);
        free(bytes);
    }
    globfree(&found);
}

// All bytes that a vector has upwards, behind room for the head.
static uint8_t *input_of(const struct vector *vector, size_t *length) {
    uint8_t *input = malloc(FUZZ_STREAM_HEAD);
    *length = FUZZ_STREAM_HEAD;
    for (size_t i = 0; i < vector->step_count; i++) {
        const struct vector_step *step = &vector->steps[i];
        if (step->kind != STEP_UP)
            continue;
        input = realloc(input, *length + step->length);
        memcpy(input + *length, step->bytes, step->length);
        *length += step->length;
    }
    return input;
}

FOR_EACH_VECTOR(fuzz, vectors_as_streams) {
    static const uint8_t heads[][FUZZ_STREAM_HEAD] = {
        {0, 0},
        {1, 0},
        {0, 1, 1, 1, 1, 1, 1, 1},
        {0, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81},
        {0, 3, 70, 0x85, 17, 66, 0xFF, 1},
        {1, 40, 41, 42, 43, 44, 45, 46},
    };
    size_t length;
    uint8_t *input = input_of(vector, &length);
    fuzz_subject = vector->path;
    for (size_t mended = 0; mended <= (vector->codec->seal != NULL); mended++) {
        if (mended > 0)
            fuzz_mend(vector->codec, input + FUZZ_STREAM_HEAD, length - FUZZ_STREAM_HEAD);
        for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
            memcpy(input, heads[i], FUZZ_STREAM_HEAD);
            fuzz_stream(vector->codec, input, length);
        }
    }
    free(input);
}

FOR_EACH_VECTOR(fuzz, vectors_as_commands) {
    fuzz_subject = vector->path;
    for (size_t i = 0; i < vector->command_count; i++) {
        size_t length;
        if (strncmp(vector->commands[i], "command ", 8) != 0)
            continue;
        uint8_t *bytes = vector_unescape(vector->commands[i] + 8, &length);
        for (size_t cut = 0; cut <= length; cut++)
            fuzz_command(vector->codec, bytes, cut);
        free(bytes);
    }
}

static bool has_fault(const struct vector *vector) {
    for (size_t i = 0; i < vector->expected_count; i++)
        if (strncmp(vector->expected[i], "fault", 5) == 0)
            return true;
    return false;
}

// seal() writes the checksum that devices write: that of each good frame is left as it is.
FOR_EACH_VECTOR(fuzz, mending_leaves_good_frames_alone) {
    size_t length, at = FUZZ_STREAM_HEAD;
    if (vector->codec->seal == NULL || has_fault(vector))
        return;
    uint8_t *input = input_of(vector, &length);
    fuzz_mend(vector->codec, input + FUZZ_STREAM_HEAD, length - FUZZ_STREAM_HEAD);
    for (size_t i = 0; i < vector->step_count; i++) {
        const struct vector_step *step = &vector->steps[i];
        if (step->kind != STEP_UP)
            continue;
        cr_assert_arr_eq(input + at, step->bytes, step->length, "%s: a good frame was changed", vector->path);
        at += step->length;
    }
    free(input);
}

static size_t bad_checksums(const struct codec *codec, const uint8_t *bytes, size_t length) {
    struct replay replay;
    replay_begin(&replay, codec);
    replay_feed(&replay, bytes, length, CODEC_END);
    size_t count = (size_t)replay.counters.verdicts[CODEC_BAD_CHECKSUM];
    replay_end(&replay);
    return count;
}

static void expect_no_checksum(const struct vector *vector, const struct vector_step *step) {
    for (size_t bit = 0; step->kind == STEP_UP && bit < 8 * step->length; bit++) {
        step->bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
        size_t found = bad_checksums(vector->codec, step->bytes, step->length);
        step->bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
        cr_assert(found == 0, "%s, bit %zu: the protocol has a checksum, but the codec no seal()",
                  vector->path, bit);
    }
}

// Without it neither the fuzzer nor vectors/checksum_finds_every_bit_flip knows of the checksum.
FOR_EACH_VECTOR(fuzz, who_checks_a_checksum_writes_one) {
    for (size_t i = 0; vector->codec->seal == NULL && i < vector->step_count; i++)
        expect_no_checksum(vector, &vector->steps[i]);
}

// How many bits of a stream, flipped, make a checksum wrong; none does any more when it is mended.
static size_t check_mending(const struct vector *vector, const struct vector_step *step) {
    size_t found = 0;
    uint8_t *bytes = malloc(step->length);
    for (size_t bit = 0; bit < 8 * step->length; bit++) {
        memcpy(bytes, step->bytes, step->length);
        bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
        if (bad_checksums(vector->codec, bytes, step->length) == 0)
            continue;
        found++;
        fuzz_mend(vector->codec, bytes, step->length);
        cr_assert_eq(bad_checksums(vector->codec, bytes, step->length), 0, "%s, bit %zu", vector->path, bit);
    }
    free(bytes);
    return found;
}

// The fuzzer gets past the checksums: tried with the first good vector of each protocol that has any.
Test(fuzz, mending_gets_past_checksums) {
    const struct codec *tried = NULL; // the vectors are in the order of their protocols
    size_t count;
    const struct vector *vectors = vectors_all(&count);
    for (size_t i = 0; i < count; i++) {
        const struct vector *vector = &vectors[i];
        if (vector->codec->seal == NULL || vector->codec == tried || has_fault(vector) ||
            vector->step_count == 0 || vector->steps[0].kind != STEP_UP)
            continue;
        cr_assert(check_mending(vector, &vector->steps[0]) > 0, "%s: no checksum is checked", vector->path);
        tried = vector->codec;
    }
    cr_assert(tried != NULL);
}
