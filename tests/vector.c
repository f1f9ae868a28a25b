// Reading vector files; see vector.h. A file that cannot be read ends the tests: it is a fault of the tests.
#include "tests/vector.h"

#include <ctype.h>
#include <glob.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bytes.h"
#include "tests/vector_capture.h"

extern const struct codec codec_template;

static struct vector *vectors;
static size_t vector_count;

__attribute__((noreturn)) static void bad_file(const char *path, const char *line, const char *why) {
    fprintf(stderr, "%s: %s: %s\n", path, why, line);
    exit(1);
}

const struct codec *vector_codec(const char *name) {
    return strcmp(name, "template") == 0 ? &codec_template : codec_find(name);
}

uint8_t *vector_unescape(const char *text, size_t *length) {
    uint8_t *bytes = malloc(strlen(text) + 1);
    *length = 0;
    while (*text != '\0') {
        unsigned value = (unsigned char)*text++;
        if (value == '\\') {
            char escape = *text++;
            value = escape == 'r'   ? '\r'
                    : escape == 'n' ? '\n'
                    : escape == 't' ? '\t'
                                    : (unsigned char)escape;
            if (escape == 'x') {
                sscanf(text, "%2x", &value);
                text += 2;
            }
        }
        bytes[(*length)++] = (uint8_t)value;
    }
    return bytes;
}

// JSON in one spelling, so that texts can be compared.
static char *canonical(const char *path, const char *text) {
    json_error_t error;
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    if (json == NULL)
        bad_file(path, text, error.text);
    char *dump = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(15));
    json_decref(json);
    return dump;
}

static char *joined(const char *key, const char *value) {
    char *line;
    return asprintf(&line, "%s %s", key, value) < 0 ? NULL : line;
}

static void add_up(struct vector *vector, const char *key, const char *value) {
    struct vector_step *step = &vector->steps[vector->step_count];
    struct vector_step *last = vector->step_count > 0 ? step - 1 : NULL;
    size_t length;
    uint8_t *bytes = strcmp(key, "up") == 0 ? vector_unescape(value, &length) : bytes_unhex(value, &length);
    if (last != NULL && last->kind == STEP_UP && !vector->udp) {
        last->bytes = realloc(last->bytes, last->length + length + 1);
        memcpy(last->bytes + last->length, bytes, length);
        last->length += length;
        free(bytes);
        return;
    }
    *step = (struct vector_step){.kind = STEP_UP, .bytes = bytes, .length = length};
    vector->step_count++;
}

// NAME VALUE
static void add_option(struct vector *vector, const char *value) {
    char name[64] = "";
    size_t length = strcspn(value, " ");
    snprintf(name, sizeof name, "%.*s", (int)length, value);
    int place = codec_option_index(vector->codec, name);
    if (place < 0)
        bad_file(vector->path, value, "no such option");
    vector->options[place] = strdup(value + length + 1);
}

static void add_line(struct vector *vector, const char *line, const char *key, const char *value) {
    if (strcmp(key, "source") == 0)
        vector->has_source = true;
    else if (strcmp(key, "up") == 0 || strcmp(key, "up-hex") == 0)
        add_up(vector, key, value);
    else if (strcmp(key, "quiet") == 0)
        vector->steps[vector->step_count++].kind = STEP_QUIET;
    else if (strcmp(key, "transport") == 0)
        vector->udp = strcmp(value, "udp") == 0;
    else if (strcmp(key, "end") == 0)
        vector->end_open = strcmp(value, "open") == 0;
    else if (strcmp(key, "now") == 0)
        vector->now = atoll(value) * 1000000;
    else if (strcmp(key, "option") == 0)
        add_option(vector, value);
    else if (strcmp(key, "refuses") == 0)
        vector->refuses = strdup(value);
    else if (strcmp(key, "alone") == 0)
        vector->alone = true;
    else if (strcmp(key, "twice") == 0)
        vector->repeats = strcmp(value, "repeat") == 0;
    else if (strcmp(key, "message") == 0 || strcmp(key, "answer") == 0) {
        char *json = canonical(vector->path, value);
        vector->expected[vector->expected_count++] = joined(key, json);
        free(json);
    } else if (strcmp(key, "reply") == 0 || strcmp(key, "removed") == 0 || strcmp(key, "fault") == 0 ||
               strcmp(key, "close") == 0)
        vector->expected[vector->expected_count++] = joined(key, value);
    else if (strcmp(key, "command") == 0 || strcmp(key, "down") == 0 || strcmp(key, "down-hex") == 0 ||
             strcmp(key, "expects") == 0 || strcmp(key, "refused") == 0)
        vector->commands[vector->command_count++] = joined(key, value);
    else
        bad_file(vector->path, line, "unknown key");
    if (vector->step_count == VECTOR_LINES_MAX || vector->expected_count == VECTOR_LINES_MAX ||
        vector->command_count == VECTOR_LINES_MAX)
        bad_file(vector->path, line, "too many lines");
}

// The codec is that of the folder.
static struct vector *new_vector(const char *path) {
    if (vector_count % 512 == 0)
        vectors = realloc(vectors, (vector_count + 512) * sizeof *vectors);
    struct vector *vector = &vectors[vector_count++];
    *vector = (struct vector){.path = strdup(path + strlen(TEST_VECTORS) + 1)};
    const char *slash = strchr(vector->path, '/');
    char *protocol = strndup(vector->path, slash != NULL ? (size_t)(slash - vector->path) : 0);
    vector->codec = vector_codec(protocol);
    free(protocol);
    return vector;
}

static void read_line(struct vector *vector, char *line) {
    size_t length = strlen(line);
    while (length > 0 && isspace((unsigned char)line[length - 1]))
        line[--length] = '\0';
    char *colon = strchr(line, ':');
    if (line[0] == '#' || line[0] == '\0')
        return;
    if (colon == NULL)
        bad_file(vector->path, line, "no key");
    *colon = '\0';
    add_line(vector, line, line, colon[1] == ' ' ? colon + 2 : colon + 1);
}

static void read_vector(const char *path, char *text) {
    struct vector *vector = new_vector(path);
    if (vector->codec == NULL)
        bad_file(path, "", "no protocol of that name");
    for (char *line; (line = strsep(&text, "\n")) != NULL;)
        read_line(vector, line);
    if (!vector->has_source)
        bad_file(path, "", "has no source");
}

static void read_connection(const char *path, const struct capture_file *file, size_t number) {
    struct vector *vector = new_vector(path);
    if (file->connections[number].codec != NULL)
        vector->codec = file->connections[number].codec;
    if (vector->codec == NULL)
        bad_file(path, "", "does not say which protocol it is of");
    for (size_t i = 0; i < file->note_count; i++)
        if (file->notes[i].connection == number)
            read_line(vector, file->notes[i].text);
    const char *wrong = vector_of_capture(vector, file, number);
    if (wrong != NULL)
        bad_file(path, file->connections[number].label, wrong);
}

static void read_capture(const char *path, const char *text) {
    char *reason = NULL;
    struct capture_file *file = capture_file_read(text, strlen(text), &reason);
    if (file == NULL || file->connection_count == 0)
        bad_file(path, "", reason != NULL ? reason : "has no bytes");
    for (size_t i = 0; i < file->connection_count; i++)
        read_connection(path, file, i);
    capture_file_free(file);
}

static void read_file(const char *path) {
    static char text[1 << 20];
    FILE *file = fopen(path, "r");
    size_t length = file != NULL ? fread(text, 1, sizeof text - 1, file) : sizeof text;
    if (length >= sizeof text - 1)
        bad_file(path, "", "cannot be read, or is larger than 1 MiB");
    fclose(file);
    text[length] = '\0';
    if (capture_file_is(text, length))
        read_capture(path, text);
    else
        read_vector(path, text);
}

static void read_files(void) {
    glob_t found;
    if (glob(TEST_VECTORS "/{*/*.vector,*/*.capture,*.capture}", GLOB_BRACE, NULL, &found) != 0)
        bad_file(TEST_VECTORS, "", "has no vectors");
    for (size_t i = 0; i < found.gl_pathc; i++)
        read_file(found.gl_pathv[i]);
    globfree(&found);
}

const struct vector *vectors_all(size_t *count) {
    if (vectors == NULL)
        read_files();
    *count = vector_count;
    return vectors;
}
