// The pages say what there is: their tables are those of the program, their links lead somewhere, the files
// that they name exist. What they show to type is run by e2e/test_readme.c.
#include <criterion/criterion.h>
#include <ctype.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "codecs/codec.h"
#include "schema/schemas.h"
#include "tests/pages.h"

#define LINES_MAX 180 // of the README, so that it is read
#define PATH_MAX_ 512

#define FOR_EACH_PAGE(page)                                                                                  \
    for (size_t count_, i_ = 0; i_ < (pages_all(&count_), count_); i_++)                                     \
        for (const struct page *page = &pages_all(&count_)[i_]; page != NULL; page = NULL)

static size_t count_of(const char *text, const char *part) {
    size_t count = 0;
    while ((text = strstr(text, part)) != NULL) {
        count++;
        text += strlen(part);
    }
    return count;
}

Test(readme, is_short) {
    const struct page *readme = page_find("README.md");
    cr_assert(readme != NULL);
    size_t lines = count_of(readme->text, "\n") - 1;
    cr_assert(lines <= LINES_MAX, "README.md has %zu lines, expected at most %d", lines, LINES_MAX);
}

// --- the commands of each protocol ---

// The lines of the table that follows, for the caller to free.
static char *table_after(const char *at) {
    at = strstr(at, "\n|");
    cr_assert(at != NULL);
    const char *end = strstr(at, "\n\n");
    return strndup(at, end != NULL ? (size_t)(end - at) : strlen(at));
}

// The row of a command, for the caller to free.
static char *row_of(const char *table, const char *protocol, const char *name) {
    char start[80];
    snprintf(start, sizeof start, "\n| `%s` |", name);
    const char *at = strstr(table, start);
    cr_assert(at != NULL, "the table of the commands of %s has no row for `%s`", protocol, name);
    return strndup(at, 1 + strcspn(at + 1, "\n"));
}

// Each property, also of what is nested in it or depends on a condition.
static void expect_properties(const json_t *schema, const char *row, const char *name) {
    const char *key;
    json_t *inner;
    size_t i;
    json_object_foreach(json_object_get(schema, "properties"), key, inner) {
        char quoted[80];
        snprintf(quoted, sizeof quoted, "`%s`", key);
        cr_assert(strstr(row, quoted) != NULL, "the row of %s does not name %s: %s", name, quoted, row);
        expect_properties(inner, row, name);
        expect_properties(json_object_get(inner, "items"), row, name);
    }
    json_array_foreach(json_object_get(schema, "allOf"), i, inner)
        expect_properties(json_object_get(inner, "then"), row, name);
}

static void expect_commands(const char *table, const char *protocol) {
    const json_t *schemas = json_object_get(schema_of_commands(protocol), "$defs");
    const char *name;
    json_t *schema;
    cr_assert(schemas != NULL, "there is a table of the commands of %s, which has none", protocol);
    json_object_foreach((json_t *)schemas, name, schema) {
        char *row = row_of(table, protocol, name);
        expect_properties(schema, row, name);
        free(row);
    }
    cr_assert(count_of(table, "\n| `") == json_object_size(schemas),
              "the table of %s has a command that the schema does not have", protocol);
}

// How many pages have a table of the commands of that protocol; each must be right.
static size_t check_tables(const char *protocol) {
    char start[64];
    size_t tables = 0;
    snprintf(start, sizeof start, "The commands of `%s`", protocol);
    FOR_EACH_PAGE(page) {
        const char *at = strstr(page->text, start);
        if (at == NULL)
            continue;
        char *table = table_after(at);
        expect_commands(table, protocol);
        free(table);
        tables++;
    }
    return tables;
}

// A new protocol needs no table: `trackbus describe commands` has it.
Test(readme, tables_of_commands_are_right) {
    const struct codec *codec;
    for (size_t i = 0; (codec = codec_at(i)) != NULL; i++)
        check_tables(codec->name);
    cr_assert_eq(check_tables("mictrack"), 1);
    cr_assert_eq(check_tables("magicyo"), 1);
}

// --- the configuration ---

static void expect_key(const char *table, const char *path, const json_t *schema) {
    char row[256];
    const json_t *value = json_object_get(schema, "default");
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    if (value == NULL)
        snprintf(row, sizeof row, "\n| `%s` | |", path);
    else if (json_is_array(value) && json_is_object(json_array_get(value, 0)))
        snprintf(row, sizeof row, "\n| `%s` | see below |", path);
    else
        snprintf(row, sizeof row, "\n| `%s` | `%s` |", path, text);
    cr_assert(strstr(table, row) != NULL, "gateway/README.md has no row that begins with %s", row + 1);
    free(text);
}

// Expects a row for each key below schema; returns how many there are.
static size_t expect_keys(const char *table, const char *prefix, const json_t *schema) {
    size_t count = 0;
    const char *key;
    json_t *property;
    json_object_foreach(json_object_get(schema, "properties"), key, property) {
        char path[128];
        const json_t *items = json_object_get(property, "items");
        bool is_section = json_object_get(property, "properties") != NULL;
        snprintf(path, sizeof path, "%s%s", prefix, key);
        if (!is_section) {
            expect_key(table, path, property);
            count++;
        }
        strcat(path, is_section ? "." : "[].");
        count += expect_keys(table, path, is_section ? property : items);
    }
    return count;
}

Test(readme, table_of_the_configuration_is_the_schema) {
    const struct page *page = page_find("gateway/README.md");
    const char *at = page != NULL ? strstr(page->text, "\n## Configuration\n") : NULL;
    cr_assert(at != NULL);
    char *table = table_after(at);
    size_t keys = expect_keys(table, "", schema_find("config.schema.json"));
    cr_assert(count_of(table, "\n| `") == keys, "the table has %zu keys, the schema %zu",
              count_of(table, "\n| `"), keys);
    free(table);
}

// --- log entries ---

static void expect_row(const char *page, const char *begin) {
    char row[64];
    snprintf(row, sizeof row, "\n| %s |", begin);
    cr_assert(strstr(page, row) != NULL, "gateway/README.md: no row '%s'", row + 1);
}

// Each number that the file gives to a name that begins with this: "EVENT_ACCEPTED = 100,".
static size_t expect_codes(const char *page, const char *file, const char *name) {
    static char text[32768];
    char pattern[64], code[8];
    size_t count = 0;
    int end;
    FILE *source = fopen(file, "r");
    cr_assert(source != NULL, "%s", file);
    text[fread(text, 1, sizeof text - 1, source)] = '\0';
    fclose(source);
    snprintf(pattern, sizeof pattern, "%s%%*[A-Z_]%%*[] ]=%%*[ ]%%7[0-9]%%n", name);
    for (const char *at = text; (at = strstr(at, name)) != NULL; at++) {
        end = 0;
        if (sscanf(at, pattern, code, &end) != 1 || strcmp(code, "0") == 0)
            continue;
        expect_row(page, code);
        count++;
    }
    return count;
}

// Those of connections and devices, and those of commands; and what a codec says of bytes.
Test(readme, the_codes_of_log_entries_are_explained) {
    const char *page = page_find("gateway/README.md")->text;
    cr_assert_eq(expect_codes(page, TEST_ROOT "/gateway/channels/event.h", "EVENT_"), 9);
    cr_assert_eq(expect_codes(page, TEST_ROOT "/gateway/commands/voice.c", "COMMAND_"), 5);
    cr_assert_eq(expect_codes(page, TEST_ROOT "/gateway/channels/close_code.h", "CLOSE_"), 9);
    for (int verdict = CODEC_OK + 1; verdict < CODEC_VERDICT_COUNT; verdict++) {
        char span[64];
        snprintf(span, sizeof span, "`%s`", codec_verdict_name((enum codec_verdict)verdict));
        cr_assert(strstr(page, span) != NULL, "gateway/README.md does not explain %s", span);
    }
    cr_assert(strstr(page, "`JUNK`") != NULL);
}

// --- links, and files that are named ---

// The part of path that names the folder, with its slash.
static int folder_length(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL ? (int)(slash - path) + 1 : 0;
}

// Where a target leads from a page, as a path from the root.
static void resolve(const struct page *page, const char *target, int length, char path[PATH_MAX_]) {
    int folder = folder_length(page->name);
    for (; length >= 3 && strncmp(target, "../", 3) == 0; length -= 3, target += 3)
        do
            folder--;
        while (folder > 0 && page->name[folder - 1] != '/');
    snprintf(path, PATH_MAX_, "%.*s%.*s", folder > 0 ? folder : 0, page->name, length, target);
}

static bool exists(const char *path) {
    char whole[PATH_MAX_ + sizeof TEST_ROOT];
    snprintf(whole, sizeof whole, TEST_ROOT "/%s", path);
    return access(whole, F_OK) == 0;
}

// As GitHub makes an anchor of a heading.
static void anchor_of(const char *heading, size_t length, char anchor[PATH_MAX_]) {
    size_t used = 0;
    for (size_t i = 0; i < length && used < PATH_MAX_ - 1; i++) {
        unsigned char c = (unsigned char)heading[i];
        if (c == ' ')
            anchor[used++] = '-';
        else if (isalnum(c) || c == '-' || c == '_' || c >= 0x80)
            anchor[used++] = (char)tolower(c);
    }
    anchor[used] = '\0';
}

static bool has_anchor(const struct page *page, const char *wanted) {
    for (const char *at = page->text; (at = strstr(at, "\n#")) != NULL;) {
        char anchor[PATH_MAX_];
        at += 1 + strspn(at + 1, "#");
        anchor_of(at + 1, strcspn(at + 1, "\n"), anchor);
        if (*at == ' ' && strcmp(anchor, wanted) == 0)
            return true;
    }
    return false;
}

static void expect_link(const struct page *page, const char *target, int length) {
    char path[PATH_MAX_], anchor[PATH_MAX_] = "";
    const char *hash = memchr(target, '#', (size_t)length);
    int before = hash != NULL ? (int)(hash - target) : length;
    if (hash != NULL)
        snprintf(anchor, sizeof anchor, "%.*s", length - before - 1, hash + 1);
    resolve(page, target, before, path);
    const struct page *goal = before == 0 ? page : page_find(path);
    cr_assert(before == 0 || exists(path), "%s: the link to %.*s leads nowhere", page->name, length, target);
    cr_assert(*anchor == '\0' || (goal != NULL && has_anchor(goal, anchor)),
              "%s: the link to %.*s: there is no such heading", page->name, length, target);
}

Test(readme, links_lead_somewhere) {
    size_t links = 0;
    FOR_EACH_PAGE(page) {
        for (const char *at = page->text; (at = strstr(at, "](")) != NULL; links++) {
            at += 2;
            if (strncmp(at, "http", 4) != 0)
                expect_link(page, at, (int)strcspn(at, ")\n"));
        }
    }
    cr_assert(links > 0);
}

// Whether text, up to its first slash, is a folder beside the page or in the root; path is then what it
// names.
static bool names_file(const struct page *page, const char *text, char path[PATH_MAX_]) {
    char folder[PATH_MAX_];
    int length = (int)strcspn(text, " "), first = (int)strcspn(text, "/");
    if (first == 0 || first >= length || text[strcspn(text, "{#+*$")] != '\0')
        return false;
    resolve(page, text, first, folder);
    resolve(page, text, length, path);
    if (exists(folder))
        return true;
    snprintf(folder, sizeof folder, "%.*s", first, text);
    snprintf(path, PATH_MAX_, "%.*s", length, text);
    return exists(folder);
}

// A word in capitals stands for something: `schema/commands/PROTOCOL.json`.
static bool has_placeholder(const char *path) {
    for (size_t run = 0; *path != '\0'; path++) {
        run = isupper((unsigned char)*path) ? run + 1 : 0;
        if (run == 4 && strncmp(path - 3, "READ", 4) != 0)
            return true;
    }
    return false;
}

// The code spans of a line: every second part between backticks.
static size_t check_spans(const struct page *page, char *line) {
    size_t named = 0;
    char path[PATH_MAX_];
    strsep(&line, "`");
    for (char *span; (span = strsep(&line, "`")) != NULL && line != NULL; strsep(&line, "`")) {
        if (!names_file(page, span, path) || has_placeholder(path))
            continue;
        cr_assert(exists(path), "%s names `%s`, which is not there", page->name, span);
        named++;
    }
    return named;
}

Test(readme, files_that_are_named_exist) {
    size_t named = 0;
    FOR_EACH_PAGE(page) {
        bool in_block = false;
        char *text = strdup(page->text), *rest = text;
        for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
            bool fence = strncmp(line, "```", 3) == 0;
            in_block = in_block != fence;
            if (!in_block && !fence)
                named += check_spans(page, line);
        }
        free(text);
    }
    cr_assert(named > 20, "only %zu files are named", named);
}

// --- what is shown to type ---

// At QoS 0 a command is lost while the gateway is away.
Test(readme, commands_are_published_at_qos_1) {
    static const char *const programs[] = {"\nmosquitto_pub ", "\nmosquitto_rr "};
    for (size_t i = 0; i < sizeof programs / sizeof programs[0]; i++) {
        size_t found = 0;
        FOR_EACH_PAGE(page) {
            for (const char *at = page->text; (at = strstr(at, programs[i])) != NULL; found++) {
                at += strlen(programs[i]);
                cr_assert(strncmp(at, "-q 1 ", 5) == 0, "%s: %.*s", page->name, (int)strcspn(at, "\n"), at);
            }
        }
        cr_assert(found > 0);
    }
}
