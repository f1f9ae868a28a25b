// What all codecs share, and the registry; see codec.h.
#include "codecs/codec.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CODEC(name) extern const struct codec codec_##name;
#include "codec_list.h"
#undef CODEC

static const struct codec *const registry[] = {
#define CODEC(name) &codec_##name,
#include "codec_list.h"
#undef CODEC
};

const struct codec *codec_at(size_t index) {
    return index < sizeof registry / sizeof registry[0] ? registry[index] : NULL;
}

const struct codec *codec_find(const char *name) {
    for (size_t i = 0; codec_at(i) != NULL; i++)
        if (strcmp(codec_at(i)->name, name) == 0)
            return codec_at(i);
    return NULL;
}

const struct codec *codec_by_id(unsigned id) {
    for (size_t i = 0; codec_at(i) != NULL; i++)
        if (codec_at(i)->id == id)
            return codec_at(i);
    return NULL;
}

const char *codec_verdict_name(enum codec_verdict verdict) {
    static const char *const names[CODEC_VERDICT_COUNT] = {
        [CODEC_OK] = "OK",
        [CODEC_SHORT] = "SHORT",
        [CODEC_BAD_CHECKSUM] = "BAD_CHECKSUM",
        [CODEC_BAD_VALUE] = "BAD_VALUE",
        [CODEC_UNKNOWN_TYPE] = "UNKNOWN_TYPE",
        [CODEC_NOT_IDENTIFIED] = "NOT_IDENTIFIED",
        [CODEC_UNSUPPORTED] = "UNSUPPORTED",
        [CODEC_VIOLATION] = "VIOLATION",
    };
    return names[verdict];
}

enum codec_verdict codec_reject(struct codec_out *out, enum codec_verdict verdict, size_t offset,
                                const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(out->reason, sizeof out->reason, format, arguments);
    va_end(arguments);
    out->reason_offset = offset;
    return verdict;
}

enum codec_verdict codec_refuse(char reason[CODEC_REASON_MAX], enum codec_verdict verdict, const char *format,
                                ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, CODEC_REASON_MAX, format, arguments);
    va_end(arguments);
    return verdict;
}

int codec_option_index(const struct codec *codec, const char *name) {
    for (int i = 0; codec->options != NULL && codec->options[i] != NULL; i++)
        if (strcmp(codec->options[i], name) == 0)
            return i;
    return -1;
}

const char *codec_option(const struct codec_setting *setting, size_t index) {
    return setting->options != NULL ? setting->options[index] : NULL;
}

void codec_write(struct codec_writer *writer, const void *bytes, size_t length) {
    if (writer->length <= writer->capacity && length <= writer->capacity - writer->length)
        memcpy(writer->bytes + writer->length, bytes, length);
    writer->length += length;
}

void codec_write_text(struct codec_writer *writer, const char *format, ...) {
    char text[CODEC_COMMAND_MAX];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    // A longer text overflows any writer, whose length says so.
    if (length > 0 && (size_t)length < sizeof text)
        codec_write(writer, text, (size_t)length);
    else
        writer->length = writer->capacity + 1;
}
