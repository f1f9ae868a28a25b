// Vector files: one case a file, readable as documentation. A line is "key: value"; # begins a comment; keys
// are
//
//   source:     where the case comes from (required)
//   up:         bytes from the device, with \r \n \t \\ \xHH; several lines follow each other
//   up-hex:     the same in hexadecimal
//   transport:  udp: each up line is a datagram
//   quiet:      at this point the device is silent for a while
//   end: open   nothing is known of what follows the last byte (otherwise it is the end)
//   now:        what time it is, in whole Unix seconds; otherwise that is not known
//   option:     NAME VALUE, which the channel says for the codec
//   refuses:    the ident of a device that may not talk to the gateway
//   alone:      why the case cannot stand twice in a row
//   twice: repeat   a second time in a row it is a retransmission: all but the messages comes again
//
// A capture (README.md of the vectors) is one too: a case for each of its connections, of which it may say what is
// expected in such lines.
//
//   message:    expected: the message as JSON, without what the gateway adds
//   answer:     expected: {"key":…,"ident":…,"outcome":"success"|"failure"|"progress","response":…}
//   reply:      expected: now HEX, safe HEX or refused HEX, to the device
//   removed:    expected: FIELD 'VALUE' reason, before its message
//   fault:      expected: OFFSET VERDICT reason
//   close: by the device   expected: the device takes its leave
//   close: refused         expected: nothing more is read of a device that is refused
//
//   command:    a command, as text or JSON; encoded after all that was sent, for the device that spoke last
//   down:       expected: the bytes of the last command; down-hex: the same in hexadecimal
//   expects:    expected: the key of the answer to the last command
//   refused:    expected: what is wrong with the last command
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codecs/codec.h"

enum step_kind { STEP_UP, STEP_QUIET };

struct vector_step {
    enum step_kind kind;
    uint8_t *bytes;
    size_t length;
};

#define VECTOR_LINES_MAX 128

struct vector {
    char *path; // below tests/vectors
    const struct codec *codec;
    int64_t now; // microseconds, as in struct codec_setting
    const char *options[CODEC_OPTIONS_MAX];
    char *refuses; // or NULL
    bool udp, end_open, alone, repeats, has_source;
    struct vector_step steps[VECTOR_LINES_MAX];
    size_t step_count;
    char *expected[VECTOR_LINES_MAX]; // "message {…}", "fault 0 BAD_VALUE …", in order
    size_t expected_count;
    char *commands[VECTOR_LINES_MAX]; // "command …", "down …", "expects …", "refused …", in order
    size_t command_count;
};

// All vectors, read once, by path; *count how many.
const struct vector *vectors_all(size_t *count);

// The codec that a directory of vectors is for: a registered one, or the template.
const struct codec *vector_codec(const char *name);

// Undoes \r \n \t \\ \xHH. The bytes are for the caller to free.
uint8_t *vector_unescape(const char *text, size_t *length);
