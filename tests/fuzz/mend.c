// What all targets share: mending what a mutation broke, and how they say what does not hold.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/fuzz/fuzz.h"

const char *fuzz_subject;

void fuzz_fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s: ", fuzz_subject != NULL ? fuzz_subject : "fuzz");
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    abort();
}

// Mends the frame that bytes begin with, if they do. Returns how many bytes were looked at.
static size_t mend_one(const struct codec *codec, uint8_t *bytes, size_t length) {
    size_t window = length < codec->frame_max ? length : codec->frame_max;
    struct codec_frame frame = codec->frame(bytes, window, CODEC_END);
    if (frame.kind == CODEC_READY)
        codec->seal(bytes, frame.length);
    return frame.kind == CODEC_MORE || frame.kind == CODEC_BAD ? 1 : frame.length;
}

void fuzz_mend(const struct codec *codec, uint8_t *bytes, size_t length) {
    for (size_t at = 0; codec->seal != NULL && at < length;)
        at += mend_one(codec, bytes + at, length - at);
}
