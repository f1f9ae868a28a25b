// Replaying bytes; see replay.h.
#include "tests/replay.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/channels/message_stamp.h"
#include "gateway/commands/parse.h"
#include "schema/json_schema.h"
#include "schema/schemas.h"

__attribute__((format(printf, 2, 3))) static void add_line(struct replay *replay, const char *format, ...) {
    va_list arguments;
    replay->content += replay_is_content(format); // which begins like the line
    if (replay->counts_only)
        return;
    va_start(arguments, format);
    replay->lines = realloc(replay->lines, (replay->count + 1) * sizeof *replay->lines);
    if (vasprintf(&replay->lines[replay->count++], format, arguments) < 0)
        abort();
    va_end(arguments);
}

static char *canonical(json_t *json) {
    char *text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(15));
    json_decref(json);
    return text;
}

static json_t *message_json(const struct message *message) {
    static char text[MESSAGE_JSON_MAX];
    json_error_t error;
    size_t length = message_write_json(message, text, sizeof text);
    json_t *json = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
    if (json == NULL) {
        fprintf(stderr, "a message is no JSON: %s: %s\n", error.text, text);
        abort();
    }
    return json;
}

static void print_fault(void *context, const char *path, const char *problem) {
    fprintf(stderr, "schema: %s %s\n", path, problem);
}

// The net under all expectations: whatever any codec puts out passes the schema.
static void check_schema(struct replay *replay, struct message *message) {
    const json_t *schema = schema_find("message.schema.json");
    message_stamp(message, &(struct message_origin){.codec = replay->stream.codec,
                                                    .received = 1600000000000000,
                                                    .channel_id = 1,
                                                    .peer = "192.0.2.1:1"});
    json_t *json = message_json(message);
    replay->schema_faults += json_schema_check(schema, schema, json, "message", print_fault, NULL);
    json_decref(json);
}

static enum codec_identity on_ident(void *context, const char *ident) {
    const struct replay *replay = context;
    bool refused = replay->refuses != NULL && strcmp(ident, replay->refuses) == 0;
    return refused ? CODEC_REFUSED : CODEC_ACCEPTED;
}

static void on_message(void *context, struct message *message) {
    struct replay *replay = context;
    for (size_t i = 0; i < message->removed_count && i < MESSAGE_REMOVED_MAX; i++)
        add_line(replay, "removed %s '%s' %s", field_table[message->removed[i].field].name,
                 message->removed[i].text, message->removed[i].reason);
    char *text = replay->counts_only ? NULL : canonical(message_json(message));
    add_line(replay, "message %s", text != NULL ? text : "");
    free(text);
    check_schema(replay, message);
}

static void on_reply(void *context, const uint8_t *bytes, size_t length, enum codec_reply_when when) {
    static const char *const whens[] = {
        [CODEC_NOW] = "now", [CODEC_WHEN_SAFE] = "safe", [CODEC_WHEN_REFUSED] = "refused"};
    char hex[4096] = "";
    for (size_t i = 0; i < length && i < sizeof hex / 2 - 1; i++)
        sprintf(hex + 2 * i, "%02x", bytes[i]);
    add_line(context, "reply %s %s", whens[when], hex);
}

static void on_answer(void *context, const struct codec_answer *answer) {
    static const char *const outcomes[] = {
        [CODEC_SUCCESS] = "success", [CODEC_FAILURE] = "failure", [CODEC_PROGRESS] = "progress"};
    struct replay *replay = context;
    if (answer->implicit)
        return;
    char *text =
        canonical(json_pack("{s:s, s:s, s:s, s:o}", "key", answer->key, "ident", replay->stream.ident,
                            "outcome", outcomes[answer->outcome], "response", command_response(answer)));
    add_line(replay, "answer %s", text);
    free(text);
}

static void on_fault(void *context, const struct stream_fault *fault) {
    add_line(context, "fault %llu %s %s", (unsigned long long)fault->offset, fault->verdict, fault->reason);
}

static const struct stream_sink sink = {
    .identify = on_ident,
    .message = on_message,
    .reply = on_reply,
    .answer = on_answer,
    .fault = on_fault,
};

void replay_begin(struct replay *replay, const struct codec *codec) {
    *replay = (struct replay){0};
    stream_init(&replay->stream, codec, &sink, replay, &replay->counters);
}

void replay_begin_vector(struct replay *replay, const struct vector *vector) {
    replay_begin(replay, vector->codec);
    replay->refuses = vector->refuses;
    replay->stream.setting = (struct codec_setting){
        .now = vector->now, .transport = vector->udp ? CODEC_UDP : CODEC_TCP, .options = vector->options};
}

void replay_feed(struct replay *replay, const uint8_t *bytes, size_t length, enum codec_follow follow) {
    if (replay->state != STREAM_OPEN)
        return;
    replay->state = stream_feed(&replay->stream, bytes, length, follow);
    if (replay->state == STREAM_CLOSED_BY_DEVICE)
        add_line(replay, "close by the device");
    if (replay->state == STREAM_REFUSED)
        add_line(replay, "close refused");
}

void replay_end(struct replay *replay) {
    for (size_t i = 0; i < replay->count; i++)
        free(replay->lines[i]);
    free(replay->lines);
    stream_free(&replay->stream);
}

bool replay_is_content(const char *line) {
    return strncmp(line, "fault", 5) != 0 && strncmp(line, "removed", 7) != 0;
}
