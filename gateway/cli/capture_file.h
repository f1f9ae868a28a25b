// Capture files: the bytes of devices in both directions, as text. tests/vectors/README.md describes the format.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "codecs/codec.h"
#include "gateway/base/address.h"

#define CAPTURE_LABEL_MAX 96

// A TCP connection, or an address over UDP.
struct capture_connection {
    char label[CAPTURE_LABEL_MAX]; // no other one has it: "trackbus/17"; empty: the file does not say
    bool udp;
    int64_t channel_id;              // 0: not known
    const struct codec *codec;       // NULL: not known
    char source[ADDRESS_TEXT_MAX];   // of the device; empty: not known
    char ident[CODEC_IDENT_MAX + 1]; // of the device that spoke last; empty: none was known
    uint64_t next[2];                // offset behind the last chunk, by `sent`
};

struct capture_chunk {
    size_t connection;
    bool sent; // to the device
    int64_t time;
    uint64_t offset; // of its first byte, among all of the connection in its direction
    bool gap;        // bytes before it are missing
    uint8_t *bytes;
    size_t length;
};

// What else stands in a file, as "key: value": a vector's expectations.
struct capture_note {
    char *text;
    size_t connection; // that was spoken of last
};

struct capture_file {
    char *title; // what was captured, for people; or NULL
    struct capture_connection *connections;
    size_t connection_count;
    struct capture_chunk *chunks;
    size_t chunk_count;
    struct capture_note *notes;
    size_t note_count;
};

// Whether text is a capture file: its first line says so.
bool capture_file_is(const char *text, size_t length);

// Reads one, to be freed. NULL when something is wrong with it; *reason, for the caller to free, then says in which
// line and what was expected.
struct capture_file *capture_file_read(const char *text, size_t length, char **reason);

struct capture_file *capture_file_new(void);
void capture_file_free(struct capture_file *file);

// The number of the connection with that label and transport, which is added when there is none.
size_t capture_file_connection(struct capture_file *file, const char *label, bool udp);

// Adds a chunk and takes over its bytes. A chunk whose offset is not that behind the last one has a gap before it.
void capture_file_add(struct capture_file *file, struct capture_chunk chunk);

// Takes connections out of the file, with their chunks: those for which it says true, one for each.
void capture_file_leave_out(struct capture_file *file, const bool *connections);

void capture_file_write(const struct capture_file *file, FILE *out);

// "2026-11-26T09:00:00.123456Z", for microseconds since 1970; text has CAPTURE_TIME_TEXT bytes and is returned.
#define CAPTURE_TIME_TEXT 40
char *capture_time(int64_t time, char *text);
