// Commands from text and JSON; see parse.h.
#include "gateway/commands/parse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"
#include "gateway/commands/properties_json.h"
#include "schema/json_schema.h"
#include "schema/schemas.h"
#include "schema/utf8.h"

__attribute__((format(printf, 1, 2))) static char *reason_of(const char *format, ...) {
    char *reason;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&reason, format, arguments) < 0)
        must_have(NULL);
    va_end(arguments);
    return reason;
}

static json_t *parse_json(const char *payload, size_t length, char **reason) {
    json_error_t error;
    json_t *commands = json_loadb(payload, length, JSON_REJECT_DUPLICATES, &error);
    if (commands == NULL) {
        utf8_mend(error.text); // jansson quotes the payload and may cut it anywhere
        *reason = reason_of("the command is no valid JSON: line %d, column %d: %s", error.line, error.column,
                            error.text);
        return NULL;
    }
    if (json_is_object(commands))
        return json_pack("[o]", commands);
    if (json_array_size(commands) > 0 && json_array_size(commands) <= COMMANDS_AT_ONCE_MAX)
        return commands;
    *reason = reason_of("an array of commands has 1 to %d of them, this one has %zu", COMMANDS_AT_ONCE_MAX,
                        json_array_size(commands));
    json_decref(commands);
    return NULL;
}

static char first_char(const char *payload, size_t length) {
    size_t at = 0;
    while (at < length && strchr(" \t\r\n", payload[at]) != NULL && payload[at] != '\0')
        at++;
    return at < length ? payload[at] : '\0';
}

json_t *command_parse(const char *payload, size_t length, char **reason) {
    char first = first_char(payload, length);
    if (length == 0) {
        *reason = reason_of("the command is empty");
        return NULL;
    }
    if (first == '{' || first == '[')
        return parse_json(payload, length, reason);
    if (!utf8_valid(payload, length)) {
        *reason = reason_of("the command is not text in UTF-8");
        return NULL;
    }
    return json_pack("[{s:s, s:{s:s%}}]", "name", "custom", "properties", "payload", payload, length);
}

// Collects the faults of a check in one line.
static void collect(void *context, const char *path, const char *problem) {
    char **faults = context;
    char *more =
        *faults == NULL ? reason_of("%s %s", path, problem) : reason_of("%s; %s %s", *faults, path, problem);
    free(*faults);
    *faults = more;
}

static const json_t *schema_of(const json_t *command, const struct codec *codec) {
    const char *name = json_string_value(json_object_get(command, "name"));
    return json_object_get(json_object_get(schema_of_commands(codec->name), "$defs"), name);
}

bool command_is_of(const json_t *command, const struct codec *codec) {
    return schema_of(command, codec) != NULL;
}

char *command_check(json_t *command, const struct codec *codec) {
    const json_t *envelope = schema_find("command.schema.json");
    char *faults = NULL;
    json_schema_check(envelope, envelope, command, "command", collect, &faults);
    if (faults != NULL)
        return faults;
    json_schema_fill_defaults(envelope, command);
    const json_t *catalogue = schema_of_commands(codec->name), *schema = schema_of(command, codec);
    if (schema == NULL) {
        char *was = json_schema_brief(json_object_get(command, "name"));
        faults = reason_of("%s has no command %s", codec->name, was);
        free(was);
        return faults;
    }
    json_t *properties = json_object_get(command, "properties");
    json_schema_check(catalogue, schema, properties, "properties", collect, &faults);
    if (faults == NULL)
        json_schema_fill_defaults(schema, properties);
    return faults;
}

char *command_encode(const json_t *command, const struct codec *codec, void *session,
                     struct codec_writer *writer, struct codec_expectation *expectation) {
    char reason[CODEC_REASON_MAX];
    struct flat_properties flat = properties_from_json(json_object_get(command, "properties"));
    struct codec_command with = {.name = json_string_value(json_object_get(command, "name")),
                                 .properties = flat.bag};
    enum codec_verdict verdict = codec->encode(session, &with, writer, expectation, reason);
    flat_properties_free(&flat);
    if (verdict == CODEC_OK && writer->length <= writer->capacity)
        return NULL;
    return verdict == CODEC_OK ? reason_of("the command is too long") : reason_of("%s", reason);
}

static json_t *message_to_json(const struct message *message) {
    char *text = must_have(malloc(MESSAGE_JSON_MAX));
    size_t length = message_write_json(message, text, MESSAGE_JSON_MAX);
    json_t *json = json_loadb(text, length, 0, NULL);
    free(text);
    return json;
}

json_t *command_response(const struct codec_answer *answer) {
    json_t *response = NULL;
    if (answer->fields != NULL)
        response = properties_to_json(answer->fields);
    else if (answer->message != NULL)
        response = message_to_json(answer->message);
    else if (answer->text != NULL)
        response = json_string(answer->text);
    return response != NULL ? response : json_null();
}
