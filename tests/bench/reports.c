// What devices say; see reports.h.
#include "tests/bench/reports.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "gateway/channels/message_stamp.h"
#include "gateway/channels/stream.h"
#include "gateway/config/registry.h"
#include "tests/bytes.h"

#define IDENT    "860000000000000"
#define SEQUENCE "10000"
#define PEER     "127.0.1.1:40000"

static const char *const mictrack[] = {
    "MT;6;" IDENT ";R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+" SEQUENCE "\r\n",
    "MT;6;" IDENT ";R1;190108024848+6a:db:54:5a:79:6d,-91,00:9a:cd:a2:e6:21,-94+3+3831+" SEQUENCE "\r\n",
    "MT;6;" IDENT ";R0;11+190109091903+22.64827+114.03922+42.14+169+0+3741+" SEQUENCE "\r\n",
    "MT;6;" IDENT
    ";R12;190108024848+6a:db:54:5a:79:6d,-91,00:9a:cd:a2:e6:21,-94+0,21681,20616,460+3+3831+" SEQUENCE "\r\n",
    "MT;6;" IDENT ";R0;9+190109092003+-22.65827+-114.04922+0+270+4+3738+" SEQUENCE "\r\n",
    "MT;1;" IDENT ";R3;190528030445+0,167910723,14924,460,176+4+3587+" SEQUENCE "\r\n",
    "MT;4;" IDENT ";RH;5+190116112648+0+0+0+0+11+3954+" SEQUENCE "\r\n",
};

// Bodies of data frames: type, subtype, and what follows.
struct body {
    size_t length;
    uint8_t bytes[128];
};

#define GPS_BLOCK                                                                                            \
    0x5f, 0x5e, 0x10, 0x00, 0x1a, 0x00, 0xf6, 0xad, 0xfe, 0xaa, 0x22, 0x8b, 0x13, 0x02, 0xdb, 0x0f, 0x00,    \
        0xf0, 0x09, 0x00, 0xc0, 0x00, 0x00, 0x05

static const struct body magicyo[] = {
    {27, {0x04, 0x00, 1, GPS_BLOCK}},
    {31, {0x01, 0x01, 0x01, 0x5f, 0x5e, 0x10, 0x3c, GPS_BLOCK}},
    {27, {0x04, 0x00, 1, GPS_BLOCK}},
    {18,
     {0x04, 0x01, 0x5f, 0x5e, 0x10, 0x00, 0x01, 0x06, 0x00, 0x02, 0x12, 0x34, 0x0a, 0xbc, 0xde, 0x01, 0x03,
      0x4b}},
    {27, {0x04, 0x00, 1, GPS_BLOCK}},
    {57, {0x04, 0x02, 0x00, 0x00, 0x04, 0x5f, 0x5e, 0x10, 0x00, 0x00, 0x06, 0x01, 0x4b, 0x00, 0x08,
          0x01, 0x09, 0x00, 0x66, 0x02, 0x01, 0x9c, 0x00, 0x67, 0x02, 0x04, 0xf1, 0x00, 0xcb, 0x04,
          0x00, 0x12, 0xd6, 0x87, 0x00, 0xcc, 0x01, 0xeb, 0x00, 0xcd, 0x01, 0xf9, 0x00, 0xce, 0x01,
          0xf0, 0x00, 0xcf, 0x01, 0x1f, 0x00, 0xd0, 0x01, 0x58, 0x00, 0xd1, 0x01}},
};

enum { LOGIN = 1, DATA = 3 };

// --- patterns ---

static void put_digits(uint8_t *at, size_t digits, uint64_t number) {
    while (digits-- > 0) {
        at[digits] = (uint8_t)('0' + number % 10);
        number /= 10;
    }
}

size_t pattern_write(const struct pattern *pattern, unsigned device, unsigned sequence, uint8_t *bytes) {
    memcpy(bytes, pattern->bytes, pattern->length);
    for (size_t i = 0; i < pattern->ident_count; i++)
        put_digits(bytes + pattern->idents[i], REPORT_DIGITS, REPORT_IDENT + device);
    if (pattern->binary) {
        bytes_put(bytes + pattern->sequence, sequence, 2);
        bytes_magicyo_sign(bytes, pattern->length);
    } else {
        put_digits(bytes + pattern->sequence, strlen(SEQUENCE), sequence);
    }
    return pattern->length;
}

size_t pattern_write_segment(const struct pattern *pattern, unsigned device, unsigned sequence,
                             uint8_t *bytes) {
    pattern_write(pattern, device, sequence, bytes);
    return pattern->sequence + (size_t)sprintf((char *)bytes + pattern->sequence, "%u", sequence);
}

static void find_places(struct pattern *pattern, const char *before_sequence) {
    const uint8_t *end = pattern->bytes + pattern->length, *at = pattern->bytes;
    pattern->ident_count = 0;
    while ((at = memmem(at, (size_t)(end - at), IDENT, REPORT_DIGITS)) != NULL) {
        assert(pattern->ident_count < REPORT_PLACES);
        pattern->idents[pattern->ident_count++] = (size_t)(at - pattern->bytes);
        at += REPORT_DIGITS;
    }
    at = memmem(pattern->bytes, pattern->length, before_sequence, strlen(before_sequence));
    assert(at != NULL && pattern->ident_count > 0);
    pattern->sequence = (size_t)(at - pattern->bytes) + strlen(before_sequence) - strlen(SEQUENCE);
}

static void make_text(struct pattern *pattern, const char *text) {
    pattern->length = strlen(text);
    memcpy(pattern->bytes, text, pattern->length);
    find_places(pattern, "+" SEQUENCE);
}

static void make_frame(struct pattern *pattern, uint8_t type, const uint8_t *data, size_t length) {
    *pattern = (struct pattern){.idents = {4}, .ident_count = 1, .sequence = MAGICYO_ID_AT, .binary = true};
    pattern->length = bytes_magicyo(pattern->bytes, IDENT, type, REPORT_FIRST, data, length);
}

size_t report_positions(unsigned device, unsigned sequence, unsigned positions, uint8_t *bytes) {
    static const uint8_t block[] = {GPS_BLOCK};
    uint8_t data[1024] = {0x04, 0x00, (uint8_t)positions};
    struct pattern pattern;
    assert(positions <= 41);
    for (unsigned i = 0; i < positions; i++)
        memcpy(data + 3 + i * sizeof block, block, sizeof block);
    make_frame(&pattern, DATA, data, 3 + positions * sizeof block);
    return pattern_write(&pattern, device, sequence, bytes);
}

// --- the messages that they give ---

static enum codec_identity take_ident(void *context, const char *ident) {
    return CODEC_ACCEPTED;
}

static void take_reply(void *context, const uint8_t *bytes, size_t length, enum codec_reply_when when) {
}

static void take_answer(void *context, const struct codec_answer *answer) {
}

static void take_fault(void *context, const struct stream_fault *fault) {
    assert(fault == NULL); // the reports of the benchmark are good ones
}

struct making {
    const struct codec *codec;
    struct pattern *json;
};

static void take_message(void *context, struct message *message) {
    struct making *making = context;
    static char json[MESSAGE_JSON_MAX];
    const struct device device = {.known = true, .id = REPORT_IDENT, .name = IDENT};
    message_stamp(message, &(struct message_origin){.codec = making->codec,
                                                    .received = 1700000000123456,
                                                    .channel_id = 1,
                                                    .peer = PEER,
                                                    .device = &device});
    size_t length = message_write_json(message, json, sizeof json);
    assert(length > 0 && length <= REPORT_MAX && making->json->length == 0);
    making->json->length = length;
    memcpy(making->json->bytes, json, length);
    find_places(making->json, "\"message.seqnum\":" SEQUENCE);
}

static void make_json(const struct codec *codec, const struct pattern *report, struct pattern *json) {
    static const struct stream_sink sink = {.identify = take_ident,
                                            .message = take_message,
                                            .reply = take_reply,
                                            .answer = take_answer,
                                            .fault = take_fault};
    struct making making = {.codec = codec, .json = json};
    struct stream_counters counters = {0};
    struct stream stream;
    stream_init(&stream, codec, &sink, &making, &counters);
    stream_feed(&stream, report->bytes, report->length, CODEC_END);
    stream_free(&stream);
    assert(counters.messages == 1);
}

const struct reports *reports_make(const char *protocol, bool mixed) {
    static struct reports reports;
    static const uint8_t login[] = {0x00, 0x02, 0x11, 0x01, 1, 'A', 1, 'B', 0x5f, 0x5e, 0x10, 0x00};
    bool text = strcmp(protocol, "mictrack") == 0;
    if (!text && strcmp(protocol, "magicyo") != 0)
        return NULL;
    size_t kinds = text ? sizeof mictrack / sizeof mictrack[0] : sizeof magicyo / sizeof magicyo[0];
    reports = (struct reports){.codec = codec_find(protocol), .count = mixed ? kinds : 1};
    for (size_t i = 0; i < reports.count; i++) {
        if (text)
            make_text(&reports.device[i], mictrack[i]);
        else
            make_frame(&reports.device[i], DATA, magicyo[i].bytes, magicyo[i].length);
        make_json(reports.codec, &reports.device[i], &reports.json[i]);
    }
    reports.login = reports.device[0];
    if (!text)
        make_frame(&reports.login, LOGIN, login, sizeof login);
    return &reports;
}
