// JSON Schema checks; see json_schema.h.
#include "schema/json_schema.h"

#include <math.h>
#include <pthread.h>
#include <regex.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Patterns of the schemas, compiled: to compile one takes longer than all else about a value, and the entries of a hundred
// thousand commands have the same few. Each thread has its own until it ends, the one compiled longest ago goes. A copy of the
// text is kept, since the schema may go.
#define PATTERNS_MAX 32
struct pattern {
    char *text; // NULL: none yet
    regex_t expression;
};
static _Thread_local struct pattern patterns[PATTERNS_MAX];
static _Thread_local size_t next_pattern; // that is taken for another
static pthread_key_t end_of_thread;       // set in a thread that has patterns, so that they go with it
static pthread_once_t key_made = PTHREAD_ONCE_INIT;

struct check {
    const json_t *root;
    json_schema_fault_fn *fault; // NULL: only count
    void *context;
    unsigned faults;
};

typedef void keyword_fn(struct check *check, const json_t *schema, const json_t *rule, const json_t *value,
                        const char *path);

static void check_value(struct check *check, const json_t *schema, const json_t *value, const char *path);

#define BRIEF_MAX 79
char *json_schema_brief(const json_t *value) {
    static const char ellipsis[] = "…";
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15));
    if (text == NULL)
        return strdup("?");
    if (strlen(text) > BRIEF_MAX) { // so that the ellipsis has the room of what is cut
        size_t cut = BRIEF_MAX - strlen(ellipsis);
        while (((unsigned char)text[cut] & 0xC0) == 0x80)
            cut--; // not inside a UTF-8 sequence
        strcpy(text + cut, ellipsis);
    }
    return text;
}

__attribute__((format(printf, 3, 4))) static void fault(struct check *check, const char *path,
                                                        const char *format, ...) {
    check->faults++;
    if (check->fault == NULL)
        return;
    char *problem;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&problem, format, arguments) >= 0) {
        check->fault(check->context, path, problem);
        free(problem);
    }
    va_end(arguments);
}

static void fault_expected(struct check *check, const json_t *value, const char *path, const char *expected) {
    char *was = json_schema_brief(value);
    fault(check, path, "is %s, expected %s", was, expected);
    free(was);
}

// Checks with faults only counted: for if and anyOf.
static bool holds(const struct check *check, const json_t *schema, const json_t *value) {
    struct check quiet = {.root = check->root};
    check_value(&quiet, schema, value, "");
    return quiet.faults == 0;
}

static bool has_type(const json_t *value, const char *type) {
    if (strcmp(type, "integer") == 0)
        return json_is_integer(value) || (json_is_real(value) && fmod(json_real_value(value), 1) == 0);
    return (strcmp(type, "object") == 0 && json_is_object(value)) ||
           (strcmp(type, "array") == 0 && json_is_array(value)) ||
           (strcmp(type, "string") == 0 && json_is_string(value)) ||
           (strcmp(type, "number") == 0 && json_is_number(value)) ||
           (strcmp(type, "boolean") == 0 && json_is_boolean(value)) ||
           (strcmp(type, "null") == 0 && json_is_null(value));
}

// The type's name for people.
static const char *type_name(const char *type) {
    return strcmp(type, "boolean") == 0 ? "true or false" : type;
}

// "a, b or c" of the values' texts, or of the types that they name; for the caller to free.
static char *list_of(const json_t *values, bool types) {
    size_t i, size = 1;
    json_t *entry;
    char *list = calloc(1, 1);
    json_array_foreach(values, i, entry) {
        char *text = types ? strdup(type_name(json_string_value(entry))) : json_schema_brief(entry);
        const char *joint = i == 0 ? "" : i + 1 == json_array_size(values) ? " or " : ", ";
        size += strlen(text) + strlen(joint);
        list = realloc(list, size);
        strcat(strcat(list, joint), text);
        free(text);
    }
    return list;
}

static void check_type(struct check *check, const json_t *schema, const json_t *rule, const json_t *value,
                       const char *path) {
    size_t i;
    json_t *type;
    json_t *types = json_is_array(rule) ? json_incref((json_t *)rule) : json_pack("[O]", rule);
    bool found = false;
    json_array_foreach(types, i, type) found = found || has_type(value, json_string_value(type));
    if (!found) {
        char *list = list_of(types, true);
        fault_expected(check, value, path, list);
        free(list);
    }
    json_decref(types);
}

static void check_enum(struct check *check, const json_t *schema, const json_t *rule, const json_t *value,
                       const char *path) {
    size_t i;
    json_t *allowed;
    json_array_foreach(rule, i, allowed) {
        if (json_equal(allowed, value))
            return;
    }
    char *list = list_of(rule, false);
    fault_expected(check, value, path, list);
    free(list);
}

static void check_const(struct check *check, const json_t *schema, const json_t *rule, const json_t *value,
                        const char *path) {
    if (json_equal(rule, value))
        return;
    char *expected = json_schema_brief(rule);
    fault_expected(check, value, path, expected);
    free(expected);
}

// One error names both bounds; so maximum is checked with minimum, and alone only where there is no minimum.
static void check_bounds(struct check *check, const json_t *schema, const json_t *rule, const json_t *value,
                         const char *path) {
    const json_t *minimum = json_object_get(schema, "minimum"), *maximum = json_object_get(schema, "maximum");
    if (!json_is_number(value) || (minimum != NULL && rule == maximum))
        return;
    double number = json_number_value(value);
    bool low = minimum != NULL && number < json_number_value(minimum);
    bool high = maximum != NULL && number > json_number_value(maximum);
    if (!low && !high)
        return;
    char *was = json_schema_brief(value);
    char *least = json_schema_brief(minimum), *most = json_schema_brief(maximum);
    if (minimum != NULL && maximum != NULL)
        fault(check, path, "is %s, expected %s to %s", was, least, most);
    else
        fault(check, path, "is %s, expected %s %s", was, low ? "at least" : "at most", low ? least : most);
    free(was);
    free(least);
    free(most);
}

// Characters, not bytes, as JSON Schema counts.
static size_t text_length(const json_t *value) {
    size_t length = 0;
    for (const char *at = json_string_value(value); *at != '\0'; at++)
        length += ((unsigned char)*at & 0xC0) != 0x80;
    return length;
}

static void check_length(struct check *check, const json_t *schema, const json_t *rule, const json_t *value,
                         const char *path) {
    bool least = rule == json_object_get(schema, "minLength");
    json_int_t bound = json_integer_value(rule);
    if (!json_is_string(value))
        return;
    json_int_t length = (json_int_t)text_length(value);
    if (least ? length < bound : length > bound)
        fault(check, path, "has %lld characters, expected %s %lld", (long long)length,
              least ? "at least" : "at most", (long long)bound);
}

static struct pattern *compiled(const char *wanted) {
    for (size_t i = 0; i < PATTERNS_MAX && patterns[i].text != NULL; i++)
        if (strcmp(patterns[i].text, wanted) == 0)
            return &patterns[i];
    return NULL;
}

static void free_patterns(void *of_thread) {
    struct pattern *each = of_thread;
    for (size_t i = 0; i < PATTERNS_MAX && each[i].text != NULL; i++) {
        regfree(&each[i].expression);
        free(each[i].text);
        each[i].text = NULL;
    }
}

static void make_key(void) {
    pthread_key_create(&end_of_thread, free_patterns);
}

// NULL when it is no expression.
static struct pattern *compile(const char *wanted) {
    struct pattern *place = &patterns[next_pattern], made = {.text = strdup(wanted)};
    if (made.text == NULL || regcomp(&made.expression, wanted, REG_EXTENDED | REG_NOSUB) != 0) {
        free(made.text);
        return NULL;
    }
    if (place->text != NULL)
        regfree(&place->expression);
    free(place->text);
    *place = made;
    pthread_once(&key_made, make_key);
    pthread_setspecific(end_of_thread, patterns);
    next_pattern = (next_pattern + 1) % PATTERNS_MAX;
    return place;
}

static bool matches(const char *wanted, const char *text) {
    struct pattern *pattern = compiled(wanted);
    if (pattern == NULL)
        pattern = compile(wanted);
    return pattern != NULL && regexec(&pattern->expression, text, 0, NULL, 0) == 0;
}

static void check_pattern(struct check *check, const json_t *schema, const json_t *rule, const json_t *value,
                          const char *path) {
    if (!json_is_string(value) || matches(json_string_value(rule), json_string_value(value)))
        return;
    const char *meaning = json_string_value(json_object_get(schema, "description"));
    char *was = json_schema_brief(value);
    if (meaning != NULL)
        fault(check, path, "is %s, expected: %s", was, meaning);
    else
        fault(check, path, "is %s, expected text that matches %s", was, json_string_value(rule));
    free(was);
}

static void check_items(struct check *check, const json_t *schema, const json_t *rule, const json_t *value,
                        const char *path) {
    size_t i;
    json_t *item;
    json_array_foreach(value, i, item) {
        char *inner;
        if (asprintf(&inner, "%s[%zu]", path, i) < 0)
            return;
        check_value(check, rule, item, inner);
        free(inner);
    }
}

static void check_count(struct check *check, const json_t *schema, const json_t *rule, const json_t *value,
                        const char *path) {
    json_int_t bound = json_integer_value(rule);
    bool least =
        rule == json_object_get(schema, "minItems") || rule == json_object_get(schema, "minProperties");
    bool of_object = rule == json_object_get(schema, "minProperties");
    if (of_object ? !json_is_object(value) : !json_is_array(value))
        return;
    json_int_t count = (json_int_t)(of_object ? json_object_size(value) : json_array_size(value));
    if (least ? count < bound : count > bound)
        fault(check, path, "has %lld entries, expected %s %lld", (long long)count,
              least ? "at least" : "at most", (long long)bound);
}

static void check_required(struct check *check, const json_t *schema, const json_t *rule, const json_t *value,
                           const char *path) {
    size_t i;
    json_t *name;
    if (!json_is_object(value))
        return;
    json_array_foreach(rule, i, name) {
        if (json_object_get(value, json_string_value(name)) == NULL)
            fault(check, path, "has no \"%s\", which is required", json_string_value(name));
    }
}

// The schema of a property by properties or patternProperties, or NULL.
static const json_t *property_schema(const struct check *check, const json_t *schema, const char *name) {
    const json_t *found = json_object_get(json_object_get(schema, "properties"), name);
    const char *pattern;
    json_t *inner;
    if (found != NULL)
        return found;
    json_object_foreach(json_object_get(schema, "patternProperties"), pattern, inner) {
        if (matches(pattern, name))
            return inner;
    }
    return NULL;
}

static void surplus_property(struct check *check, const json_t *schema, const char *name, const char *path) {
    const char *known;
    json_t *inner, *names = json_array();
    json_object_foreach(json_object_get(schema, "properties"), known, inner) {
        json_array_append_new(names, json_string(known));
    }
    char *list = list_of(names, true);
    json_decref(names);
    fault(check, path, "is not known here, expected %s", *list != '\0' ? list : "no properties at all");
    free(list);
}

// Serves properties, patternProperties and additionalProperties at once, called by the first that is there.
static void check_properties(struct check *check, const json_t *schema, const json_t *rule,
                             const json_t *value, const char *path) {
    static const char *const order[] = {"properties", "patternProperties", "additionalProperties"};
    size_t first = 0;
    while (json_object_get(schema, order[first]) == NULL)
        first++;
    if (rule != json_object_get(schema, order[first]))
        return;
    const json_t *others = json_object_get(schema, "additionalProperties");
    const char *name;
    json_t *property;
    json_object_foreach((json_t *)value, name, property) {
        char *inner;
        if (asprintf(&inner, "%s.%s", path, name) < 0)
            return;
        const json_t *rules = property_schema(check, schema, name);
        if (rules != NULL)
            check_value(check, rules, property, inner);
        else if (json_is_false(others))
            surplus_property(check, schema, name, inner);
        else if (others != NULL)
            check_value(check, others, property, inner);
        free(inner);
    }
}

static void check_all_of(struct check *check, const json_t *schema, const json_t *rule, const json_t *value,
                         const char *path) {
    size_t i;
    json_t *part;
    json_array_foreach(rule, i, part) check_value(check, part, value, path);
}

// The alternatives are described, not tried one by one in the error.
static void check_any_of(struct check *check, const json_t *schema, const json_t *rule, const json_t *value,
                         const char *path) {
    size_t i;
    json_t *part;
    json_t *meanings = json_array();
    json_array_foreach(rule, i, part) {
        if (holds(check, part, value)) {
            json_decref(meanings);
            return;
        }
        const char *meaning = json_string_value(json_object_get(part, "description"));
        json_array_append_new(meanings, json_string(meaning != NULL ? meaning : "another form"));
    }
    char *list = list_of(meanings, true);
    fault_expected(check, value, path, list);
    free(list);
    json_decref(meanings);
}

static void check_if(struct check *check, const json_t *schema, const json_t *rule, const json_t *value,
                     const char *path) {
    const json_t *branch = json_object_get(schema, holds(check, rule, value) ? "then" : "else");
    if (branch != NULL)
        check_value(check, branch, value, path);
}

static void check_ref(struct check *check, const json_t *schema, const json_t *rule, const json_t *value,
                      const char *path) {
    static const char prefix[] = "#/$defs/";
    const char *target = json_string_value(rule);
    const json_t *definition = NULL;
    if (strncmp(target, prefix, sizeof prefix - 1) == 0)
        definition = json_object_get(json_object_get(check->root, "$defs"), target + sizeof prefix - 1);
    if (definition == NULL)
        fault(check, path, "cannot be checked: the schema refers to %s, which does not exist", target);
    else
        check_value(check, definition, value, path);
}

// What a keyword's value holds, for walking through a schema.
enum holds_schemas { NOTHING, ONE, EACH_VALUE, EACH_ITEM };

static const struct keyword {
    const char *name;
    keyword_fn *check; // NULL: an annotation, or served by another keyword
    enum holds_schemas inside;
} keywords[] = {
    {"$ref", check_ref, NOTHING},
    {"type", check_type, NOTHING},
    {"enum", check_enum, NOTHING},
    {"const", check_const, NOTHING},
    {"minimum", check_bounds, NOTHING},
    {"maximum", check_bounds, NOTHING},
    {"minLength", check_length, NOTHING},
    {"maxLength", check_length, NOTHING},
    {"pattern", check_pattern, NOTHING},
    {"items", check_items, ONE},
    {"minItems", check_count, NOTHING},
    {"maxItems", check_count, NOTHING},
    {"minProperties", check_count, NOTHING},
    {"required", check_required, NOTHING},
    {"properties", check_properties, EACH_VALUE},
    {"patternProperties", check_properties, EACH_VALUE},
    {"additionalProperties", check_properties, ONE},
    {"allOf", check_all_of, EACH_ITEM},
    {"anyOf", check_any_of, EACH_ITEM},
    {"if", check_if, ONE},
    {"then", NULL, ONE},
    {"else", NULL, ONE},
    {"$defs", NULL, EACH_VALUE},
    {"$schema", NULL, NOTHING},
    {"title", NULL, NOTHING},
    {"description", NULL, NOTHING},
    {"default", NULL, NOTHING},
    {"examples", NULL, NOTHING},
    {"unit", NULL, NOTHING},
    {"x-button", NULL, NOTHING},
    {"x-select", NULL, NOTHING},
    {"x-text", NULL, NOTHING},
    {"x-once", NULL, NOTHING},
    {"x-risky", NULL, NOTHING},
    {"x-models", NULL, NOTHING},
};
#define KEYWORD_COUNT (sizeof keywords / sizeof keywords[0])

// A value of the wrong type has one fault, not one for every keyword that it then breaks.
static void check_value(struct check *check, const json_t *schema, const json_t *value, const char *path) {
    unsigned before = check->faults;
    for (size_t i = 0; i < KEYWORD_COUNT; i++) {
        const json_t *rule = json_object_get(schema, keywords[i].name);
        if (rule == NULL || keywords[i].check == NULL)
            continue;
        keywords[i].check(check, schema, rule, value, path);
        if (check->faults > before && keywords[i].check == check_type)
            return;
    }
}

unsigned json_schema_check(const json_t *root, const json_t *schema, const json_t *value, const char *path,
                           json_schema_fault_fn *report, void *context) {
    struct check check = {.root = root, .fault = report, .context = context};
    check_value(&check, schema, value, path);
    return check.faults;
}

static bool has_default_inside(const json_t *schema) {
    const char *name;
    json_t *inner;
    json_object_foreach(json_object_get(schema, "properties"), name, inner) {
        if (json_object_get(inner, "default") != NULL || has_default_inside(inner))
            return true;
    }
    return false;
}

void json_schema_fill_defaults(const json_t *schema, json_t *value) {
    const json_t *items = json_object_get(schema, "items");
    const char *name;
    json_t *inner, *item;
    size_t i;
    if (items != NULL) {
        json_array_foreach(value, i, item) json_schema_fill_defaults(items, item);
    }
    if (!json_is_object(value))
        return;
    json_object_foreach(json_object_get(schema, "properties"), name, inner) {
        const json_t *standard = json_object_get(inner, "default");
        if (json_object_get(value, name) == NULL && standard != NULL)
            json_object_set_new(value, name, json_deep_copy(standard));
        else if (json_object_get(value, name) == NULL && has_default_inside(inner))
            json_object_set_new(value, name, json_object());
        json_schema_fill_defaults(inner, json_object_get(value, name));
    }
}

json_int_t json_schema_integer(const json_t *value) {
    double real = json_real_value(value);
    bool fits = real >= -9223372036854775808.0 && real < 9223372036854775808.0;
    return json_is_integer(value) ? json_integer_value(value) : fits ? (json_int_t)real : 0;
}

static const char *unknown_in_each(const json_t *inside, enum holds_schemas kind) {
    const char *name, *unknown = NULL;
    json_t *inner;
    size_t i;
    if (kind == ONE)
        return json_schema_unknown_keyword(inside);
    if (kind == EACH_VALUE) {
        json_object_foreach((json_t *)inside, name, inner) {
            unknown = unknown != NULL ? unknown : json_schema_unknown_keyword(inner);
        }
    }
    if (kind == EACH_ITEM) {
        json_array_foreach(inside, i, inner) {
            unknown = unknown != NULL ? unknown : json_schema_unknown_keyword(inner);
        }
    }
    return unknown;
}

const char *json_schema_unknown_keyword(const json_t *schema) {
    const char *name;
    json_t *rule;
    json_object_foreach((json_t *)schema, name, rule) {
        size_t i = 0;
        while (i < KEYWORD_COUNT && strcmp(keywords[i].name, name) != 0)
            i++;
        if (i == KEYWORD_COUNT)
            return name;
        const char *unknown = unknown_in_each(rule, keywords[i].inside);
        if (unknown != NULL)
            return unknown;
    }
    return NULL;
}
