// Decoding offline; see decoding.h.
#include "gateway/cli/decoding.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/clean.h"
#include "gateway/base/clock.h"
#include "gateway/base/hex.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/channels/message_stamp.h"
#include "gateway/cli/explaining.h"
#include "gateway/commands/parse.h"

struct decoding_reply {
    struct decoding_reply *prev, *next;
    size_t length;
    uint8_t bytes[];
};

static enum codec_identity take_ident(void *context, const char *ident) {
    return CODEC_ACCEPTED;
}

static int64_t now_of(const struct decoding *decoding) {
    return decoding->now != 0 ? decoding->now : clock_now();
}

static void print_escaped(const char *text, FILE *file) {
    for (; *text != '\0'; text++) {
        if (*text >= ' ' && *text <= '~')
            fputc(*text, file);
        else
            fprintf(file, "\\x%02x", (unsigned char)*text);
    }
}

static void print_removed(struct decoding *decoding, const struct message *message) {
    for (size_t i = 0; i < message->removed_count && i < MESSAGE_REMOVED_MAX; i++) {
        const struct message_removed *removed = &message->removed[i];
        bool absent = removed->reason == message_absent;
        fprintf(stderr, "offset %llu: %s: %s is left out: ", (unsigned long long)decoding->stream.offset,
                absent ? "OK" : "BAD_VALUE", field_table[removed->field].name);
        fputs(absent ? "" : "'", stderr);
        print_escaped(removed->text, stderr);
        fprintf(stderr, "%s%s\n", absent ? "" : "' is ", removed->reason);
        decoding->rejected = decoding->rejected || !absent;
    }
}

static void print_message(void *context, struct message *message) {
    static char json[MESSAGE_JSON_MAX];
    static struct message_member members[MESSAGE_VALUES_MAX];
    size_t count;
    struct decoding *decoding = context;
    decoding->messages++;
    message_stamp(message,
                  &(struct message_origin){.codec = decoding->stream.codec, .received = now_of(decoding)});
    print_removed(decoding, message);
    clean_print_json(json, message_write_members(message, json, sizeof json, members, &count), stdout);
    putchar('\n');
    if (decoding->explaining != NULL)
        explaining_message(decoding->explaining, message, members, count);
}

static void print_reply(void *context, const uint8_t *bytes, size_t length, enum codec_reply_when when) {
    static const char *const when_names[] = {[CODEC_NOW] = "at once",
                                             [CODEC_WHEN_SAFE] = "once its messages are safe",
                                             [CODEC_WHEN_REFUSED] = "if the broker refuses a message"};
    struct decoding *decoding = context;
    char hex[2 * CODEC_COMMAND_MAX + 1];
    if (decoding->explaining != NULL && length <= CODEC_COMMAND_MAX)
        printf("reply %s: %s\n", when_names[when], hex_write(bytes, length, hex));
    if (!decoding->keeps_replies || when == CODEC_WHEN_REFUSED)
        return;
    struct decoding_reply *reply = must_have(malloc(sizeof *reply + length));
    reply->length = length;
    memcpy(reply->bytes, bytes, length);
    DL_APPEND(decoding->replies, reply);
}

static void print_frame(void *context, const struct stream_frame *frame) {
    const struct decoding *decoding = context;
    if (decoding->explaining != NULL)
        explaining_frame(decoding->explaining, frame);
}

static void print_answer(void *context, const struct codec_answer *answer) {
    struct decoding *decoding = context;
    if (answer->implicit)
        return;
    decoding->answers++;
    const char *ident = decoding->stream.ident;
    json_t *line = json_pack("{s:s?, s:o}", "ident", *ident != '\0' ? ident : NULL, "command.reply",
                             command_response(answer));
    char *text = text_of_json(line, TEXT_VALUE_DIGITS);
    clean_print_json(text, strlen(text), stdout);
    putchar('\n');
    free(text);
    json_decref(line);
}

static void print_fault(void *context, const struct stream_fault *fault) {
    struct decoding *decoding = context;
    decoding->rejected = true;
    decoding->faults++;
    fflush(stdout); // so that it stands behind what came before it
    fprintf(stderr, "offset %llu: %s: %s (%zu bytes)\n", (unsigned long long)fault->offset, fault->verdict,
            fault->reason, fault->length);
    if (decoding->marks)
        explaining_fault(fault, stderr);
}

static const struct stream_sink sink = {
    .identify = take_ident,
    .message = print_message,
    .reply = print_reply,
    .answer = print_answer,
    .fault = print_fault,
    .frame = print_frame,
};

void decoding_begin(struct decoding *decoding, const struct codec *codec, bool udp, bool explain) {
    stream_init(&decoding->stream, codec, &sink, decoding, &decoding->counters);
    decoding->stream.setting.transport = udp ? CODEC_UDP : CODEC_TCP;
    decoding->marks = explain;
    if (explain)
        decoding->explaining = explaining_new(&decoding->stream);
}

static void drop_reply(struct decoding *decoding, struct decoding_reply *reply) {
    DL_DELETE(decoding->replies, reply);
    free(reply);
}

void decoding_end(struct decoding *decoding) {
    while (decoding->replies != NULL)
        drop_reply(decoding, decoding->replies);
    stream_free(&decoding->stream);
    explaining_free(decoding->explaining);
}

enum stream_state decoding_feed(struct decoding *decoding, const uint8_t *bytes, size_t length,
                                enum codec_follow follow) {
    decoding->stream.setting.now = now_of(decoding);
    return stream_feed(&decoding->stream, bytes, length, follow);
}

bool decoding_sent(struct decoding *decoding, const uint8_t *bytes, size_t length) {
    struct decoding_reply *reply;
    DL_FOREACH(decoding->replies, reply) {
        if (reply->length == length && memcmp(reply->bytes, bytes, length) == 0) {
            drop_reply(decoding, reply);
            return true;
        }
    }
    return false;
}
