// The README says what there is.
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codecs/codec.h"
#include "schema/schemas.h"

static char *read_readme(void) {
    char *text = NULL;
    size_t length = 0;
    FILE *file = fopen(TEST_README, "r"), *memory = open_memstream(&text, &length);
    cr_assert(file != NULL);
    for (int c; (c = getc(file)) != EOF;)
        putc(c, memory);
    fclose(memory);
    fclose(file);
    return text;
}

// The lines of the table of a protocol's commands: what follows "The commands of `name`" up to the end of the
// table.
static char *table_of(const char *readme, const char *protocol) {
    char start[64];
    snprintf(start, sizeof start, "The commands of `%s`", protocol);
    const char *at = strstr(readme, start);
    cr_assert(at != NULL, "no table of the commands of %s", protocol);
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
    cr_assert(at != NULL, "the README's table of %s has no row for `%s`", protocol, name);
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
        cr_assert(strstr(row, quoted) != NULL, "the README's row of %s does not name %s: %s", name, quoted,
                  row);
        expect_properties(inner, row, name);
        expect_properties(json_object_get(inner, "items"), row, name);
    }
    json_array_foreach(json_object_get(schema, "allOf"), i, inner)
        expect_properties(json_object_get(inner, "then"), row, name);
}

static void expect_commands(const char *readme, const char *protocol) {
    char *table = table_of(readme, protocol);
    const char *name;
    json_t *schema;
    json_object_foreach(json_object_get(schema_of_commands(protocol), "$defs"), name, schema) {
        char *row = row_of(table, protocol, name);
        expect_properties(schema, row, name);
        free(row);
    }
    free(table);
}

Test(readme, names_every_command_and_property) {
    char *readme = read_readme();
    const struct codec *codec;
    for (size_t i = 0; (codec = codec_at(i)) != NULL; i++)
        if (strcmp(codec->name, "template") != 0)
            expect_commands(readme, codec->name);
    free(readme);
}
