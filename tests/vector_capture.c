// Captures as vectors; see vector_capture.h.
#include "tests/vector_capture.h"

#include <stdlib.h>
#include <string.h>

#include "tests/replay.h"

static bool says(const struct capture_file *file, size_t connection) {
    for (size_t i = 0; i < file->note_count; i++)
        if (file->notes[i].connection == connection)
            return true;
    return false;
}

static void append(struct vector *vector, const struct capture_chunk *chunk) {
    struct vector_step *step = &vector->steps[vector->step_count];
    struct vector_step *last = vector->step_count > 0 ? step - 1 : NULL;
    if (last == NULL || last->kind != STEP_UP || vector->udp) {
        *step = (struct vector_step){.kind = STEP_UP, .bytes = malloc(chunk->length + 1)};
        vector->step_count++;
        last = step;
    }
    last->bytes = realloc(last->bytes, last->length + chunk->length + 1);
    memcpy(last->bytes + last->length, chunk->bytes, chunk->length);
    last->length += chunk->length;
}

// A silence counts where the beginning of a frame waited for more.
static bool was_silent(const struct replay *replay, const struct capture_chunk *chunk, int64_t last) {
    unsigned quiet = replay->stream.codec->quiet_ms > 0 ? stream_quiet_ms(&replay->stream) : 0;
    return quiet > 0 && stream_waits(&replay->stream) && chunk->time - last >= quiet * 1000LL;
}

// As the gateway has heard it.
static void take(struct vector *vector, struct replay *replay, const struct capture_chunk *chunk,
                 int64_t last) {
    if (was_silent(replay, chunk, last)) {
        vector->steps[vector->step_count++].kind = STEP_QUIET;
        replay_feed(replay, NULL, 0, CODEC_QUIET);
    }
    replay_feed(replay, chunk->bytes, chunk->length, vector->udp ? CODEC_END : CODEC_PAUSE);
    append(vector, chunk);
}

// What came of it, as expectations; only where the file has none.
static const char *expect(struct vector *vector, const struct replay *replay) {
    for (size_t i = 0; i < replay->count; i++) {
        if (!replay_is_content(replay->lines[i])) {
            fprintf(stderr, "%s: %s\n", vector->path, replay->lines[i]);
            return "is not understood, and no lines say what is to come of it";
        }
        if (i == VECTOR_LINES_MAX)
            return "has too many messages";
        vector->expected[vector->expected_count++] = strdup(replay->lines[i]);
    }
    return replay->count == 0 ? "has not one message" : NULL;
}

const char *vector_of_capture(struct vector *vector, const struct capture_file *file, size_t connection) {
    struct replay replay;
    const char *wrong = NULL;
    int64_t last = 0;
    vector->udp = file->connections[connection].udp;
    vector->has_source = vector->alone = true; // a connection has one life
    replay_begin_vector(&replay, vector);
    for (size_t i = 0; i < file->chunk_count && wrong == NULL; i++) {
        const struct capture_chunk *chunk = &file->chunks[i];
        if (chunk->connection != connection || chunk->sent)
            continue;
        if (chunk->gap && vector->step_count > 0)
            wrong = "bytes are missing in a connection";
        else if (vector->step_count + 2 >= VECTOR_LINES_MAX)
            wrong = "has too many chunks";
        else
            take(vector, &replay, chunk, last);
        last = chunk->time;
    }
    replay_feed(&replay, NULL, 0, CODEC_END);
    if (wrong == NULL && !says(file, connection))
        wrong = expect(vector, &replay);
    replay_end(&replay);
    return wrong;
}
