// Commands from text and JSON; see parse.h.
#include "gateway/commands/parse.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/commands/properties_json.h"
#include "schema/json_schema.h"
#include "schema/schemas.h"
#include "schema/utf8.h"

static json_t *parse_json(const char *payload, size_t length, char **reason) {
    json_error_t error;
    json_t *commands = json_loadb(payload, length, JSON_REJECT_DUPLICATES, &error);
    if (commands == NULL) {
        utf8_mend(error.text); // jansson quotes the payload and may cut it anywhere
        *reason = text_format("the command is not valid JSON: line %d, column %d: %s", error.line,
                              error.column, error.text);
        return NULL;
    }
    if (json_is_object(commands))
        return json_pack("[o]", commands);
    if (json_array_size(commands) > 0 && json_array_size(commands) <= COMMANDS_AT_ONCE_MAX)
        return commands;
    *reason = text_format("an array may hold 1 to %d commands, this one holds %zu", COMMANDS_AT_ONCE_MAX,
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

static json_t *custom(const char *text, size_t length) {
    return json_pack("[{s:s, s:{s:s%}}]", "name", "custom", "properties", "payload", text, length);
}

static char last_char(const char *payload, size_t length) {
    while (length > 1 && strchr(" \t\r\n", payload[length - 1]) != NULL && payload[length - 1] != '\0')
        length--;
    return payload[length - 1];
}

static json_t *parse_string(const char *payload, size_t length, char **reason) {
    json_error_t error;
    json_t *text = json_loadb(payload, length, JSON_DECODE_ANY, &error);
    json_t *commands = text != NULL ? custom(json_string_value(text), json_string_length(text)) : NULL;
    if (text == NULL) {
        utf8_mend(error.text);
        *reason = text_format("the command is not a valid JSON string: %s", error.text);
    }
    json_decref(text);
    return commands;
}

// Where the string ends that begins at that place.
static size_t end_of_string(const char *payload, size_t length, size_t at) {
    for (at++; at < length && payload[at] != '"'; at++)
        at += payload[at] == '\\';
    return at;
}

size_t command_count(const char *payload, size_t length) {
    size_t count = 1;
    int depth = 0;
    if (first_char(payload, length) != '[')
        return 1;
    for (size_t at = 0; at < length; at++) {
        char c = payload[at];
        if (c == '"')
            at = end_of_string(payload, length, at);
        depth += (c == '[' || c == '{') - (c == ']' || c == '}');
        count += c == ',' && depth == 1;
    }
    return count;
}

json_t *command_parse(const char *payload, size_t length, char **reason) {
    char first = first_char(payload, length);
    if (length == 0) {
        *reason = text_format("the command is empty");
        return NULL;
    }
    if (first == '{' || first == '[')
        return parse_json(payload, length, reason);
    if (!utf8_valid(payload, length)) {
        *reason = text_format("the command is not text in UTF-8");
        return NULL;
    }
    if (first == '"' && last_char(payload, length) == '"')
        return parse_string(payload, length, reason);
    return custom(payload, length);
}

// Collects the faults of a check in one line.
static void collect(void *context, const char *path, const char *problem) {
    char **faults = context;
    char *more = *faults == NULL ? text_format("%s %s", path, problem)
                                 : text_format("%s; %s %s", *faults, path, problem);
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

static char *check_envelope(json_t *command) {
    const json_t *envelope = schema_find("command.schema.json");
    char *faults = NULL;
    json_schema_check(envelope, envelope, command, "command", collect, &faults);
    if (faults == NULL)
        json_schema_fill_defaults(envelope, command);
    return faults;
}

static char *say_unknown(const json_t *command, const struct codec *codec) {
    char *was = json_schema_brief(json_object_get(command, "name"));
    char *fault = text_format("%s has no command %s", codec->name, was);
    free(was);
    return fault;
}

static char *check_properties(json_t *properties, const json_t *schema, const struct codec *codec) {
    char *faults = NULL;
    json_schema_check(schema_of_commands(codec->name), schema, properties, "properties", collect, &faults);
    if (faults == NULL)
        json_schema_fill_defaults(schema, properties);
    return faults;
}

char *command_check(json_t *command, const struct codec *codec) {
    char *faults = check_envelope(command);
    if (faults != NULL)
        return faults;
    const json_t *schema = schema_of(command, codec);
    return schema == NULL ? say_unknown(command, codec)
                          : check_properties(json_object_get(command, "properties"), schema, codec);
}

char *command_check_for_any(json_t *command, const struct config *config) {
    char *first = NULL;
    bool known = false; // the protocol that said the first fault has a command of that name
    for (size_t i = 0; i < config->channel_count; i++) {
        const struct codec *codec = config->channels[i].codec;
        char *fault = command_check(command, codec);
        if (fault == NULL) {
            free(first);
            return NULL;
        }
        // What a protocol says that has such a command tells more than that another one has none.
        bool better = first == NULL || (!known && command_is_of(command, codec));
        known = known || command_is_of(command, codec);
        free(better ? first : fault);
        first = better ? fault : first;
    }
    return first;
}

// The name of the command that a text spells, in small letters.
static void read_spelled(const char *text, char name[CODEC_COMMAND_KEY_MAX]) {
    size_t length = 0;
    text += strspn(text, " ");
    while (isalnum((unsigned char)text[length]) && length < CODEC_COMMAND_KEY_MAX - 1) {
        name[length] = (char)tolower((unsigned char)text[length]);
        length++;
    }
    name[length] = '\0';
}

static bool is_once_by_name(const char *name, const struct codec *codec) {
    const json_t *schema = json_object_get(json_object_get(schema_of_commands(codec->name), "$defs"), name);
    return json_is_true(json_object_get(schema, "x-once"));
}

bool command_is_once(const json_t *command, const struct config *config) {
    const char *name = json_string_value(json_object_get(command, "name"));
    const char *text = json_string_value(json_object_get(json_object_get(command, "properties"), "payload"));
    char spelled[CODEC_COMMAND_KEY_MAX];
    if (name != NULL && strcmp(name, "custom") == 0 && text != NULL) {
        read_spelled(text, spelled);
        name = spelled;
    }
    for (size_t i = 0; name != NULL && i < config->channel_count; i++)
        if (is_once_by_name(name, config->channels[i].codec))
            return true;
    return false;
}

char *command_encode(const json_t *command, const struct codec *codec, void *session,
                     const struct codec_setting *setting, struct codec_writer *writer,
                     struct codec_expectation *expectation) {
    char reason[CODEC_REASON_MAX];
    struct flat_properties flat = properties_from_json(json_object_get(command, "properties"));
    struct codec_command with = {.name = json_string_value(json_object_get(command, "name")),
                                 .properties = flat.bag};
    enum codec_verdict verdict = codec->encode(session, setting, &with, writer, expectation, reason);
    flat_properties_free(&flat);
    if (verdict == CODEC_OK && writer->length <= writer->capacity)
        return NULL;
    return verdict == CODEC_OK ? text_format("the command is too long") : text_format("%s", reason);
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
