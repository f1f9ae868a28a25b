// What the fuzz targets feed their input to. Each function aborts, and says why, when an invariant is broken.
// The same functions run over the committed corpus in the ordinary tests.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "codecs/codec.h"

// The first bytes of an input for fuzz_stream() say how the others arrive; see fuzz_stream.c.
#define FUZZ_STREAM_HEAD 8

// Bytes of a stream or of datagrams, through framing and decoding.
void fuzz_stream(const struct codec *codec, const uint8_t *bytes, size_t length);

// A command, as text or JSON, to the bytes that the device gets.
void fuzz_command(const struct codec *codec, const uint8_t *bytes, size_t length);

// The text of a configuration. No file that it names is opened.
void fuzz_config(const uint8_t *bytes, size_t length);

// Makes the checksums of the frames in bytes right, so that mutated frames get past them; by the codec's
// seal(), and not at all without one.
void fuzz_mend(const struct codec *codec, uint8_t *bytes, size_t length);

// What is fed, for the words of fuzz_fail(), or NULL.
extern const char *fuzz_subject;

// Says what does not hold, and aborts.
__attribute__((noreturn, format(printf, 1, 2))) void fuzz_fail(const char *format, ...);
