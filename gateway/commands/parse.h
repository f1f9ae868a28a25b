// Commands as people write them, text or JSON, checked and made ready for a codec; and answers as JSON. Used
// for what arrives by MQTT and by `trackbus encode`.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "codecs/codec.h"
#include "gateway/config/config.h"

#define COMMANDS_AT_ONCE_MAX 1000 // of one array

// A payload as an array of command objects, for the caller to free; plain text, and the text in a JSON string,
// becomes {"name":"custom",…}.
// NULL, and *reason set (for the caller to free), when it is neither.
json_t *command_parse(const char *payload, size_t length, char **reason);

// How many commands a payload holds, if command_parse() takes it: without parsing it.
size_t command_count(const char *payload, size_t length);

// Whether the protocol has a command of that name.
bool command_is_of(const json_t *command, const struct codec *codec);

// Checks a command object against the envelope's schema and, for the protocol, its own. On success fills what
// the command leaves out, as the schemas say. NULL when it is valid, else what is wrong with it, for the
// caller to free.
char *command_check(json_t *command, const struct codec *codec);

// The same where it is not known which protocol the device speaks: valid is what is valid for one of the
// channels' protocols.
char *command_check_for_any(json_t *command, const struct config *config);

// Whether a command must not happen twice ("x-once" in its schema), for one of the channels' protocols.
// A plain text is known by the word that it begins with.
bool command_is_once(const json_t *command, const struct config *config);

// Encodes a checked command. NULL when writer holds the bytes, else why not, for the caller to free.
char *command_encode(const json_t *command, const struct codec *codec, void *session,
                     const struct codec_setting *setting, struct codec_writer *writer,
                     struct codec_expectation *expectation);

// What a device answered: the parsed fields, the report, or its own words; for the caller to free. Never
// NULL.
json_t *command_response(const struct codec_answer *answer);
