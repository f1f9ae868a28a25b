// Commands as people write them: whatever is accepted becomes bytes that a device may be sent, and whatever
// is not has a reason that can be published.
#include <stdlib.h>
#include <string.h>

#include "gateway/commands/parse.h"
#include "schema/utf8.h"
#include "tests/fuzz/fuzz.h"

static void check_refusal(char *reason) {
    if (*reason == '\0' || !utf8_valid(reason, strlen(reason)))
        fuzz_fail("a refusal whose reason is no text");
    free(reason);
}

// Encodes into memory of just that capacity; the length, or 0 when it was refused.
static size_t encode(const json_t *command, const struct codec *codec, size_t capacity, uint8_t *copy) {
    struct codec_writer writer = {.bytes = malloc(capacity + 1), .capacity = capacity};
    struct codec_expectation expectation;
    void *session = calloc(1, codec->session_size);
    size_t length = 0;
    memset(&expectation, 0x55, sizeof expectation);
    char *reason = command_encode(command, codec, session, &(struct codec_setting){0}, &writer, &expectation);
    if (reason == NULL) {
        length = writer.length;
        if (length == 0 || length > capacity)
            fuzz_fail("a command of %zu bytes, there is room for %zu", length, capacity);
        if (strnlen(expectation.key, sizeof expectation.key) == sizeof expectation.key)
            fuzz_fail("the key of the answer has no end");
        memcpy(copy, writer.bytes, length);
    } else {
        check_refusal(reason);
    }
    free(session);
    free(writer.bytes);
    return length;
}

// The device reads a command up to the end of the line.
static void check_line(const uint8_t *bytes, size_t length) {
    if (length > 255)
        fuzz_fail("a command of %zu bytes", length);
    for (size_t i = 0; i < length; i++)
        if (bytes[i] == '\r' || bytes[i] == '\n' || bytes[i] == '\0')
            fuzz_fail("a command with the byte %02x", bytes[i]);
}

// What single protocols must never send. Most need no row.
static void check_sent(const struct codec *codec, const uint8_t *bytes, size_t length) {
    static const struct {
        const char *protocol;
        void (*check)(const uint8_t *bytes, size_t length);
    } checks[] = {{"mictrack", check_line}};
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++)
        if (strcmp(checks[i].protocol, codec->name) == 0)
            checks[i].check(bytes, length);
}

static void encode_checked(json_t *command, const struct codec *codec) {
    static uint8_t bytes[CODEC_COMMAND_MAX], again[CODEC_COMMAND_MAX];
    char *reason = command_check(command, codec);
    if (reason != NULL)
        fuzz_fail("what was valid is not when its defaults are filled in: %s", reason);
    size_t length = encode(command, codec, sizeof bytes, bytes);
    if (length == 0)
        return;
    check_sent(codec, bytes, length);
    if (encode(command, codec, length, again) != length || memcmp(bytes, again, length) != 0)
        fuzz_fail("a command does not fit where it must, or becomes other bytes");
    if (encode(command, codec, length - 1, again) != 0)
        fuzz_fail("a command fits where it cannot");
}

void fuzz_command(const struct codec *codec, const uint8_t *bytes, size_t length) {
    char *text = malloc(length + 1), *reason = NULL; // one byte more: malloc(0) may be NULL
    size_t i;
    json_t *command;
    memcpy(text, bytes, length);
    json_t *commands = command_parse(text, length, &reason);
    if ((commands == NULL) != (reason != NULL))
        fuzz_fail("a parsed command has a reason, or one that was not has none");
    if (commands == NULL)
        check_refusal(reason);
    json_array_foreach(commands, i, command) {
        reason = command_check(command, codec);
        if (reason == NULL)
            encode_checked(command, codec);
        else
            check_refusal(reason);
    }
    json_decref(commands);
    free(text);
}
