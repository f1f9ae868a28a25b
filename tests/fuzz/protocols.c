// What the targets know of single protocols: how to mend a frame that was mutated, and what a device must
// never be sent. A protocol without a row here is fuzzed as it is.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

// --- template: 7E, length of the body, body, sum of all before ---

static void mend_template(uint8_t *bytes, size_t length, unsigned how) {
    size_t at = 0;
    while (at + 2 < length) {
        size_t whole = 2 + (size_t)bytes[at + 1] + 1;
        if (bytes[at] != 0x7E || at + whole > length) {
            at++;
            continue;
        }
        uint8_t sum = 0;
        for (size_t i = 0; i + 1 < whole; i++)
            sum = (uint8_t)(sum + bytes[at + i]);
        bytes[at + whole - 1] = sum;
        at += whole;
    }
}

// --- mictrack: text, no checksums ---

static void check_mictrack_command(const uint8_t *bytes, size_t length) {
    if (length == 0 || length > 255)
        fuzz_fail("a command of %zu bytes", length);
    for (size_t i = 0; i < length; i++)
        if (bytes[i] == '\r' || bytes[i] == '\n' || bytes[i] == '\0')
            fuzz_fail("a command with the byte %02x", bytes[i]);
}

// --- magicyo: 55 55, length, IMEI, type, frame id, length of the data, data, Adler-32, FF padding, AA AA ---

enum {
    MAGICYO_HEAD = 24, // before the data
    MAGICYO_TAIL = 6,  // behind the data, without padding
    MAGICYO_MIN = MAGICYO_HEAD + MAGICYO_TAIL,
    MAGICYO_MAX = 1024,
    MAGICYO_PADDING_MAX = 7,
};

static size_t read_16(const uint8_t *bytes) {
    return (size_t)(bytes[0] << 8 | bytes[1]);
}

static void write_16(uint8_t *bytes, size_t value) {
    bytes[0] = (uint8_t)(value >> 8);
    bytes[1] = (uint8_t)value;
}

static uint32_t adler_32(const uint8_t *bytes, size_t length) {
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < length; i++) {
        a = (a + bytes[i]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

static bool is_pair(const uint8_t *bytes, size_t length, size_t at, uint8_t value) {
    return at + 2 <= length && bytes[at] == value && bytes[at + 1] == value;
}

// The older form, which has no checksum: 55 55, number, IMEI, type, length of the data at 20, data, 1, AA AA.
static bool is_older_form(const uint8_t *frame, size_t length) {
    return length >= 25 && is_pair(frame, length, 22 + read_16(frame + 20) + 1, 0xAA);
}

// The length of the frame: what it says of itself if that leads to AA AA, else up to the first AA AA that
// another frame or nothing follows; 0 without one.
static size_t find_magicyo_end(const uint8_t *frame, size_t length) {
    size_t said = read_16(frame + 2);
    if (said >= MAGICYO_MIN && said <= MAGICYO_MAX && is_pair(frame, length, said - 2, 0xAA))
        return said;
    for (size_t at = MAGICYO_MIN - 2; at + 2 <= length && at + 2 <= MAGICYO_MAX; at++)
        if (is_pair(frame, length, at, 0xAA) && (at + 2 == length || is_pair(frame, length, at + 2, 0x55)))
            return at + 2;
    return 0;
}

static void mend_magicyo_frame(uint8_t *frame, size_t whole, unsigned how) {
    size_t data = read_16(frame + 22), most = whole - MAGICYO_MIN;
    if (data > most || most - data > MAGICYO_PADDING_MAX)
        data = most;
    for (size_t i = 4; i < 19; i++)
        if (frame[i] < '0' || frame[i] > '9')
            frame[i] = (uint8_t)('0' + frame[i] % 10);
    write_16(frame + 2, whole);
    write_16(frame + 22, data);
    uint32_t sum = adler_32(frame + 2, MAGICYO_HEAD - 2 + data);
    write_16(frame + MAGICYO_HEAD + data, sum >> 16);
    write_16(frame + MAGICYO_HEAD + data + 2, sum & 0xFFFF);
    memset(frame + MAGICYO_HEAD + data + 4, 0xFF, most - data);
}

static void mend_magicyo(uint8_t *bytes, size_t length, unsigned how) {
    size_t at = 0;
    while (at + MAGICYO_MIN <= length) {
        bool begins = is_pair(bytes, length, at, 0x55);
        bool older = begins && is_older_form(bytes + at, length - at);
        size_t whole = begins && !older ? find_magicyo_end(bytes + at, length - at) : 0;
        if (whole > 0)
            mend_magicyo_frame(bytes + at, whole, how);
        at += whole > 0 ? whole : 1;
    }
}

static const struct fuzz_protocol protocols[] = {
    {"template", mend_template, NULL},
    {"mictrack", NULL, check_mictrack_command},
    {"magicyo", mend_magicyo, NULL},
};

const struct fuzz_protocol *fuzz_protocol_of(const struct codec *codec) {
    static const struct fuzz_protocol none;
    for (size_t i = 0; i < sizeof protocols / sizeof protocols[0]; i++)
        if (strcmp(protocols[i].name, codec->name) == 0)
            return &protocols[i];
    return &none;
}
