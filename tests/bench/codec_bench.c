// trackbus-codec-bench: what the codecs do in a second on one core, through the loop that drives them in the
// gateway and without sockets. Prints JSON.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/channels/message_stamp.h"
#include "gateway/channels/stream.h"
#include "gateway/config/registry.h"
#include "tests/bench/reports.h"

#define FRAMES   8192
#define CHUNK    65536 // bytes that the gateway reads at once, at most
#define ROUNDS   5
#define DURATION 1.0 // seconds of a round

struct input {
    const struct codec *codec;
    uint8_t *bytes;
    size_t length;
    bool json; // messages are stamped and written as text
    uint64_t json_bytes;
};

static enum codec_identity on_ident(void *context, const char *ident) {
    return CODEC_ACCEPTED;
}

static void on_reply(void *context, const uint8_t *bytes, size_t length, enum codec_reply_when when) {
}

static void on_answer(void *context, const struct codec_answer *answer) {
}

static void on_fault(void *context, const struct stream_fault *fault) {
    fprintf(stderr, "a fault: %s\n", fault->reason);
    exit(1);
}

static void on_message(void *context, struct message *message) {
    static char json[MESSAGE_JSON_MAX];
    static const struct device device = {.known = true, .id = REPORT_IDENT, .name = "860000000000000"};
    struct input *input = context;
    if (!input->json)
        return;
    message_stamp(message, &(struct message_origin){.codec = input->codec,
                                                    .received = 1700000000123456,
                                                    .channel_id = 1,
                                                    .peer = "127.0.0.1:40000",
                                                    .device = &device});
    input->json_bytes += message_write_json(message, json, sizeof json);
}

static double cpu_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

// Frames of one device, each with a number of its own, so that none is the repeat of another.
static struct input make_input(const char *protocol, unsigned positions) {
    const struct reports *reports = reports_make(protocol, false);
    struct input input = {.codec = reports->codec, .bytes = malloc((size_t)FRAMES * REPORT_MAX)};
    for (unsigned i = 0; i < FRAMES; i++)
        input.length +=
            positions == 0
                ? pattern_write(&reports->device[0], 0, REPORT_FIRST + i, input.bytes + input.length)
                : report_positions(0, REPORT_FIRST + i, positions, input.bytes + input.length);
    return input;
}

// Messages in a second of processor time.
static double measure(struct input *input) {
    static const struct stream_sink sink = {.identify = on_ident,
                                            .message = on_message,
                                            .reply = on_reply,
                                            .answer = on_answer,
                                            .fault = on_fault};
    struct stream_counters counters = {0};
    struct stream stream;
    double begin = cpu_clock(), passed;
    stream_init(&stream, input->codec, &sink, input, &counters);
    do {
        for (size_t at = 0; at < input->length; at += CHUNK)
            stream_feed(&stream, input->bytes + at, input->length - at < CHUNK ? input->length - at : CHUNK,
                        CODEC_OPEN);
        passed = cpu_clock() - begin;
    } while (passed < DURATION);
    stream_free(&stream);
    return (double)counters.messages / passed;
}

static int compare(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static void print_median(const char *name, const char *protocol, unsigned positions, bool json) {
    struct input input = make_input(protocol, positions);
    double rates[ROUNDS];
    input.json = json;
    for (int i = 0; i < ROUNDS; i++)
        rates[i] = measure(&input);
    qsort(rates, ROUNDS, sizeof rates[0], compare);
    printf("\"%s\":%.0f", name, rates[ROUNDS / 2]);
    free(input.bytes);
}

int main(void) {
    putchar('{');
    print_median("mictrack_messages", "mictrack", 0, false);
    putchar(',');
    print_median("mictrack_json", "mictrack", 0, true);
    putchar(',');
    print_median("magicyo_messages_1", "magicyo", 1, false);
    putchar(',');
    print_median("magicyo_messages", "magicyo", 10, false);
    putchar(',');
    print_median("magicyo_json", "magicyo", 10, true);
    puts("}");
    return 0;
}
