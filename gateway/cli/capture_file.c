// Capture files; see capture_file.h.
#include "gateway/cli/capture_file.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/base/hex.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "schema/decimal.h"

#define TITLE "# trackbus capture"
#define FROM  "# from "
#define AT    "# at "

static const char *const directions[] = {"recv", "send"};
static const char *const transports[] = {"tcp", "udp"};

// --- the whole ---

struct capture_file *capture_file_new(void) {
    return must_have(calloc(1, sizeof(struct capture_file)));
}

void capture_file_free(struct capture_file *file) {
    if (file == NULL)
        return;
    for (size_t i = 0; i < file->chunk_count; i++)
        free(file->chunks[i].bytes);
    for (size_t i = 0; i < file->note_count; i++)
        free(file->notes[i].text);
    free(file->title);
    free(file->connections);
    free(file->chunks);
    free(file->notes);
    free(file);
}

// Room for one more of a list; it doubles when it is full.
static void *grown(void *list, size_t count, size_t size) {
    bool full = (count & (count - 1)) == 0; // at 0 and at powers of two
    return full ? must_have(reallocarray(list, count > 0 ? 2 * count : 1, size)) : list;
}

size_t capture_file_connection(struct capture_file *file, const char *label, bool udp) {
    size_t i = 0;
    while (i < file->connection_count &&
           (strcmp(file->connections[i].label, label) != 0 || file->connections[i].udp != udp))
        i++;
    if (i < file->connection_count)
        return i;
    file->connections = grown(file->connections, i, sizeof *file->connections);
    file->connections[i] = (struct capture_connection){.udp = udp};
    snprintf(file->connections[i].label, CAPTURE_LABEL_MAX, "%s", label);
    return file->connection_count++;
}

void capture_file_add(struct capture_file *file, struct capture_chunk chunk) {
    uint64_t *next = &file->connections[chunk.connection].next[chunk.sent];
    chunk.gap = chunk.offset != *next;
    *next = chunk.offset + chunk.length;
    file->chunks = grown(file->chunks, file->chunk_count, sizeof *file->chunks);
    file->chunks[file->chunk_count++] = chunk;
}

void capture_file_leave_out(struct capture_file *file, const bool *connections) {
    size_t *places = must_have(calloc(file->connection_count + 1, sizeof *places));
    size_t kept = 0, chunks = 0;
    for (size_t i = 0; i < file->connection_count; i++) {
        places[i] = kept;
        if (!connections[i])
            file->connections[kept++] = file->connections[i];
    }
    for (size_t i = 0; i < file->chunk_count; i++) {
        struct capture_chunk chunk = file->chunks[i];
        if (connections[chunk.connection]) {
            free(chunk.bytes);
            continue;
        }
        chunk.connection = places[chunk.connection];
        file->chunks[chunks++] = chunk;
    }
    file->connection_count = kept;
    file->chunk_count = chunks;
    free(places);
}

// --- times ---

char *capture_time(int64_t time, char *text) {
    time_t seconds = (time_t)(time / 1000000);
    struct tm parts;
    gmtime_r(&seconds, &parts);
    size_t length = strftime(text, CAPTURE_TIME_TEXT, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(text + length, CAPTURE_TIME_TEXT - length, ".%06dZ", (int)(time % 1000000));
    return text;
}

// The fraction of a second behind text, in microseconds; NULL when it is none.
static const char *read_fraction(const char *text, int64_t *microseconds) {
    int64_t unit = 1000000;
    *microseconds = 0;
    if (*text != '.')
        return text;
    for (text++; isdigit((unsigned char)*text); text++) {
        unit /= 10;
        *microseconds += (*text - '0') * unit;
    }
    return text;
}

// As written above, or Unix seconds.
static bool read_time(const char *text, int64_t *time) {
    struct tm parts = {0};
    struct decimal seconds;
    int64_t fraction;
    if (decimal_parse(text, strlen(text), &seconds) && decimal_in_range(seconds, 0, 253402300799)) {
        *time = (int64_t)(decimal_to_double(seconds) * 1e6 + 0.5);
        return true;
    }
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &parts);
    if (end == NULL || strcmp(read_fraction(end, &fraction), "Z") != 0)
        return false;
    int day = parts.tm_mday;
    *time = (int64_t)timegm(&parts) * 1000000 + fraction;
    return parts.tm_mday == day; // timegm() makes a day in March of the 30th of February
}

// --- reading ---

bool capture_file_is(const char *text, size_t length) {
    size_t title = strlen(TITLE);
    return length >= title && memcmp(text, TITLE, title) == 0 &&
           (length == title || isspace((unsigned char)text[title]));
}

struct reading {
    struct capture_file *file;
    char label[CAPTURE_LABEL_MAX];   // of the connection that is spoken of
    struct capture_connection about; // what its line says
    size_t connection;
    bool has_offset;
    uint64_t offset;
};

static void read_property(struct capture_connection *about, const char *word) {
    const char *value = strchr(word, '=');
    if (value++ == NULL)
        return;
    if (strncmp(word, "channel=", 8) == 0)
        about->channel_id = strtoll(value, NULL, 10);
    else if (strncmp(word, "protocol=", 9) == 0)
        about->codec = codec_find(value);
    else if (strncmp(word, "source=", 7) == 0)
        snprintf(about->source, sizeof about->source, "%s", value);
    else if (strncmp(word, "ident=", 6) == 0)
        snprintf(about->ident, sizeof about->ident, "%s", value);
}

// # from LABEL channel=1 protocol=mictrack source=… ident=…
static void read_from(struct reading *reading, char *line) {
    char *rest = NULL, *word = strtok_r(line + strlen(FROM), " ", &rest);
    reading->about = (struct capture_connection){0};
    snprintf(reading->label, sizeof reading->label, "%s", word != NULL ? word : "");
    while ((word = strtok_r(NULL, " ", &rest)) != NULL)
        read_property(&reading->about, word);
}

static void read_comment(struct reading *reading, char *line) {
    if (strncmp(line, FROM, strlen(FROM)) == 0)
        read_from(reading, line);
    if (strncmp(line, AT, strlen(AT)) == 0) {
        reading->has_offset = true;
        reading->offset = strtoull(line + strlen(AT), NULL, 10);
    }
}

static int index_of(const char *const words[2], const char *word) {
    return word == NULL ? -1 : strcmp(word, words[0]) == 0 ? 0 : strcmp(word, words[1]) == 0 ? 1 : -1;
}

static void choose_connection(struct reading *reading, bool udp) {
    reading->connection = capture_file_connection(reading->file, reading->label, udp);
    struct capture_connection *connection = &reading->file->connections[reading->connection];
    connection->channel_id = reading->about.channel_id;
    connection->codec = reading->about.codec;
    memcpy(connection->source, reading->about.source, sizeof connection->source);
    memcpy(connection->ident, reading->about.ident, sizeof connection->ident);
}

static const char *read_chunk(struct reading *reading, char *line) {
    char *rest = NULL, *time = strtok_r(line, " \t", &rest), *direction = strtok_r(NULL, " \t", &rest);
    const char *transport = strtok_r(NULL, " \t", &rest), *hex = strtok_r(NULL, " \t", &rest);
    int sent = index_of(directions, direction), udp = index_of(transports, transport);
    struct capture_chunk chunk = {.sent = sent == 1};
    if (sent < 0 || udp < 0 || hex == NULL || strtok_r(NULL, " \t", &rest) != NULL)
        return "expected four words: time, recv or send, tcp or udp, hexadecimal digits";
    if (!read_time(time, &chunk.time))
        return "expected a time such as 2026-11-26T09:00:00.123456Z, or Unix seconds";
    chunk.length = strlen(hex) / 2;
    chunk.bytes = must_have(malloc(chunk.length + 1));
    if (!hex_read(hex, strlen(hex), chunk.bytes)) {
        free(chunk.bytes);
        return "expected hexadecimal digits in pairs";
    }
    choose_connection(reading, udp == 1);
    chunk.connection = reading->connection;
    chunk.offset =
        reading->has_offset ? reading->offset : reading->file->connections[chunk.connection].next[chunk.sent];
    reading->has_offset = false;
    capture_file_add(reading->file, chunk);
    return NULL;
}

static bool is_note(const char *line) {
    size_t length = strspn(line, "abcdefghijklmnopqrstuvwxyz-");
    return length > 0 && line[length] == ':';
}

static void add_note(struct reading *reading, const char *line) {
    struct capture_file *file = reading->file;
    file->notes = grown(file->notes, file->note_count, sizeof *file->notes);
    file->notes[file->note_count++] =
        (struct capture_note){.text = must_have(strdup(line)), .connection = reading->connection};
}

static const char *read_line(struct reading *reading, char *line) {
    size_t length = strlen(line);
    while (length > 0 && isspace((unsigned char)line[length - 1]))
        line[--length] = '\0';
    if (*line == '#')
        read_comment(reading, line);
    else if (is_note(line))
        add_note(reading, line);
    else if (length > 0)
        return read_chunk(reading, line);
    return NULL;
}

struct capture_file *capture_file_read(const char *text, size_t length, char **reason) {
    struct reading reading = {.file = capture_file_new()};
    const char *wrong = NULL;
    size_t number = 1;
    for (size_t at = 0; at < length && wrong == NULL; number++) {
        const char *end = memchr(text + at, '\n', length - at);
        size_t size = end != NULL ? (size_t)(end - (text + at)) : length - at;
        char *line = must_have(strndup(text + at, size));
        wrong = strlen(line) < size ? "has a NUL byte" : read_line(&reading, line);
        free(line);
        at += size + 1;
    }
    if (wrong == NULL)
        return reading.file;
    *reason = text_format("line %zu: %s", number - 1, wrong);
    capture_file_free(reading.file);
    return NULL;
}

// --- writing ---

static void write_from(const struct capture_connection *connection, FILE *out) {
    if (connection->label[0] == '\0')
        return;
    fprintf(out, FROM "%s", connection->label);
    if (connection->channel_id > 0)
        fprintf(out, " channel=%lld", (long long)connection->channel_id);
    if (connection->codec != NULL)
        fprintf(out, " protocol=%s", connection->codec->name);
    if (connection->source[0] != '\0')
        fprintf(out, " source=%s", connection->source);
    if (connection->ident[0] != '\0')
        fprintf(out, " ident=%s", connection->ident);
    fputc('\n', out);
}

void capture_file_write(const struct capture_file *file, FILE *out) {
    fprintf(out, TITLE "\n%s%s%s", file->title != NULL ? "# " : "", file->title != NULL ? file->title : "",
            file->title != NULL ? "\n" : "");
    for (size_t i = 0; i < file->chunk_count; i++) {
        const struct capture_chunk *chunk = &file->chunks[i];
        char time[CAPTURE_TIME_TEXT], *hex = must_have(malloc(2 * chunk->length + 1));
        if (i == 0 || chunk->connection != chunk[-1].connection)
            write_from(&file->connections[chunk->connection], out);
        if (chunk->gap)
            fprintf(out, AT "%llu\n", (unsigned long long)chunk->offset);
        fprintf(out, "%s %s %s %s\n", capture_time(chunk->time, time), directions[chunk->sent],
                transports[file->connections[chunk->connection].udp],
                hex_write(chunk->bytes, chunk->length, hex));
        free(hex);
    }
}
