// The rooms of the source: who may include whom, no circles, no header that everything includes, no long
// functions. Reads the sources as text.
#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SOURCES_MAX 1000
#define ARROWS_MAX  10000
#define PATH_LENGTH 160
#define LINES_MAX   50 // lines, with the signature and the closing brace

#define BEFORE_CHANNELS "gateway/base gateway/config gateway/broker "
#define BEFORE_RUN                                                                                           \
    BEFORE_CHANNELS "gateway/geolocation gateway/channels gateway/state gateway/commands gateway/fleet "

// What each room may include besides itself, and in gateway/ besides schema/ and codecs/.
static const struct room {
    const char *name, *knows;
} rooms[] = {
    {"schema", ""},
    {"codecs", "schema"},
    {"gateway/base", ""},
    {"gateway/config", "gateway/base"},
    {"gateway/broker", "gateway/base gateway/config"},
    {"gateway/geolocation", BEFORE_CHANNELS},
    {"gateway/channels", BEFORE_CHANNELS "gateway/geolocation"},
    {"gateway/state", BEFORE_CHANNELS "gateway/channels"},
    {"gateway/commands", BEFORE_CHANNELS "gateway/channels"},
    {"gateway/fleet", BEFORE_CHANNELS},
    {"gateway/run", BEFORE_RUN},
    {"gateway/watch", BEFORE_CHANNELS "gateway/fleet"},
    {"gateway/web", BEFORE_CHANNELS "gateway/fleet"},
    {"gateway/cli", BEFORE_RUN "gateway/run gateway/watch gateway/web"},
};
#define ROOMS (sizeof rooms / sizeof rooms[0])

struct source {
    char path[PATH_LENGTH]; // from the top of the source
    char module[PATH_LENGTH];
    char *text;
};

// One include.
struct arrow {
    const struct source *from;
    char to[PATH_LENGTH], module[PATH_LENGTH];
};

// How far the search for circles is with a module.
enum mark { NEW, ON_THE_WAY, DONE };

static struct tree {
    struct source sources[SOURCES_MAX];
    struct arrow arrows[ARROWS_MAX];
    const char *modules[SOURCES_MAX];
    enum mark marks[SOURCES_MAX];
    size_t source_count, arrow_count, module_count;
    size_t way[SOURCES_MAX], way_length; // of modules, while circles are looked for
    FILE *findings;
} tree;

// --- reading ---

static bool begins_with(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0;
}

static bool is_in(const char *path, const char *room) {
    return begins_with(path, room) && path[strlen(room)] == '/';
}

// A .c and its .h are one module.
static void set_module(char *module, const char *path) {
    const char *end = strrchr(path, '.');
    size_t length = end != NULL ? (size_t)(end - path) : strlen(path);
    cr_assert_lt(length, PATH_LENGTH);
    memcpy(module, path, length);
    module[length] = '\0';
}

static size_t find_module(const char *module) {
    size_t i = 0;
    while (i < tree.module_count && strcmp(tree.modules[i], module) != 0)
        i++;
    return i;
}

static void add_source(const char *path, char *text) {
    cr_assert_lt(tree.source_count, SOURCES_MAX);
    struct source *source = &tree.sources[tree.source_count++];
    snprintf(source->path, sizeof source->path, "%s", path);
    set_module(source->module, path);
    source->text = text;
    if (find_module(source->module) == tree.module_count)
        tree.modules[tree.module_count++] = source->module;
}

// An include without a folder is next to the file that includes it.
static void add_arrow(const struct source *from, const char *target, int length) {
    cr_assert_lt(tree.arrow_count, ARROWS_MAX);
    struct arrow *arrow = &tree.arrows[tree.arrow_count++];
    bool beside = memchr(target, '/', (size_t)length) == NULL;
    int folder = beside ? (int)(strrchr(from->path, '/') + 1 - from->path) : 0;
    arrow->from = from;
    snprintf(arrow->to, sizeof arrow->to, "%.*s%.*s", folder, from->path, length, target);
    set_module(arrow->module, arrow->to);
}

static void read_includes(const struct source *source) {
    for (const char *line = source->text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (begins_with(line, "#include \""))
            add_arrow(source, line + 10, (int)strcspn(line + 10, "\"\n"));
    }
}

// --- who knows whom ---

static const struct room *room_of(const char *path) {
    for (size_t i = 0; i < ROOMS; i++)
        if (is_in(path, rooms[i].name))
            return &rooms[i];
    return NULL;
}

static bool lists(const char *names, const char *name) {
    char padded[400], wanted[PATH_LENGTH];
    snprintf(padded, sizeof padded, " %s ", names);
    snprintf(wanted, sizeof wanted, " %s ", name);
    return strstr(padded, wanted) != NULL;
}

static bool may_know(const struct room *from, const struct room *to) {
    bool below = begins_with(from->name, "gateway/") && !begins_with(to->name, "gateway/");
    return from == to || below || lists(from->knows, to->name);
}

static void check_arrow(const struct arrow *arrow) {
    const struct room *from = room_of(arrow->from->path), *to = room_of(arrow->to);
    if (from == NULL)
        return; // said of the file
    if (to == NULL)
        fprintf(tree.findings, "%s -> %s: is in no room\n", arrow->from->path, arrow->to);
    else if (!may_know(from, to))
        fprintf(tree.findings, "%s -> %s: %s/ may not know %s/\n", arrow->from->path, arrow->to, from->name,
                to->name);
}

static void check_rooms(void) {
    for (size_t i = 0; i < tree.source_count; i++)
        if (room_of(tree.sources[i].path) == NULL)
            fprintf(tree.findings, "%s: is in no room\n", tree.sources[i].path);
    for (size_t i = 0; i < tree.arrow_count; i++)
        check_arrow(&tree.arrows[i]);
}

// --- circles ---

static void tell_circle(const struct arrow *arrow, size_t to) {
    size_t at = 0;
    while (tree.way[at] != to)
        at++;
    fprintf(tree.findings, "%s -> %s: a circle: ", arrow->from->path, arrow->to);
    for (; at < tree.way_length; at++)
        fprintf(tree.findings, "%s -> ", tree.modules[tree.way[at]]);
    fprintf(tree.findings, "%s\n", tree.modules[to]);
}

static void walk(size_t module) {
    tree.marks[module] = ON_THE_WAY;
    tree.way[tree.way_length++] = module;
    for (size_t i = 0; i < tree.arrow_count; i++) {
        const struct arrow *arrow = &tree.arrows[i];
        size_t to = find_module(arrow->module);
        if (strcmp(arrow->from->module, tree.modules[module]) != 0 || to == module || to == tree.module_count)
            continue;
        if (tree.marks[to] == ON_THE_WAY)
            tell_circle(arrow, to);
        else if (tree.marks[to] == NEW)
            walk(to);
    }
    tree.way_length--;
    tree.marks[module] = DONE;
}

static void check_circles(void) {
    for (size_t i = 0; i < tree.module_count; i++)
        if (tree.marks[i] == NEW)
            walk(i);
}

// --- headers that everything includes ---

static bool includes(const char *module, const char *header) {
    for (size_t i = 0; i < tree.arrow_count; i++)
        if (strcmp(tree.arrows[i].from->module, module) == 0 && strcmp(tree.arrows[i].to, header) == 0)
            return true;
    return false;
}

static void check_header(const struct source *header) {
    size_t others = 0, including = 0;
    for (size_t i = 0; i < tree.module_count; i++) {
        if (!is_in(tree.modules[i], "gateway") || strcmp(tree.modules[i], header->module) == 0)
            continue;
        others++;
        including += includes(tree.modules[i], header->path);
    }
    if (including * 2 > others)
        fprintf(tree.findings, "%s: is included by %zu of %zu other modules, expected at most half\n",
                header->path, including, others);
}

static void check_headers(void) {
    for (size_t i = 0; i < tree.source_count; i++) {
        const char *path = tree.sources[i].path;
        if (is_in(path, "gateway") && !is_in(path, "gateway/base") && strcmp(strrchr(path, '.'), ".h") == 0)
            check_header(&tree.sources[i]);
    }
}

// --- long functions ---

// As clang-format writes them: a function begins at the start of a line, and ends with a brace that stands
// alone at the start of a line. Labels, comments and the preprocessor begin there too.
static bool may_begin_function(const char *line, size_t length) {
    return length > 0 && strchr(" \t#/{}", *line) == NULL && line[length - 1] != ':';
}

static void check_functions(const struct source *source) {
    const char *begin = source->text, *line = source->text;
    size_t number = 1, first = 1;
    for (; *line != '\0'; number++) {
        size_t length = strcspn(line, "\n");
        if (may_begin_function(line, length)) {
            begin = line;
            first = number;
        }
        if (length == 1 && *line == '}' && number - first + 1 > LINES_MAX)
            fprintf(tree.findings, "%s:%zu: %zu lines, expected at most %d: %.*s\n", source->path, first,
                    number - first + 1, LINES_MAX, (int)strcspn(begin, "{\n"), begin);
        line += length + (line[length] == '\n');
    }
}

// --- all of it ---

// What there is to say of the sources that were added, for the caller to free.
static char *check_all(void) {
    char *findings;
    size_t length;
    tree.findings = open_memstream(&findings, &length);
    for (size_t i = 0; i < tree.source_count; i++)
        read_includes(&tree.sources[i]);
    check_rooms();
    check_circles();
    check_headers();
    for (size_t i = 0; i < tree.source_count; i++)
        check_functions(&tree.sources[i]);
    fclose(tree.findings);
    return findings;
}

static char *read_text(const char *path) {
    char *text = NULL;
    size_t capacity = 0;
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file, "cannot read %s", path);
    if (getdelim(&text, &capacity, '\0', file) < 0) {
        free(text);
        text = strdup("");
    }
    fclose(file);
    return text;
}

static int add_entry(const char *path, const struct stat *status, int type, struct FTW *place) {
    const char *end = strrchr(path + place->base, '.');
    if (type == FTW_F && end != NULL && (strcmp(end, ".c") == 0 || strcmp(end, ".h") == 0))
        add_source(path + strlen(TEST_ROOT "/"), read_text(path));
    return 0;
}

static void read_tree(void) {
    static const char *const tops[] = {TEST_ROOT "/schema", TEST_ROOT "/codecs", TEST_ROOT "/gateway"};
    for (size_t i = 0; i < sizeof tops / sizeof tops[0]; i++)
        cr_assert_eq(nftw(tops[i], add_entry, 16, FTW_PHYS), 0);
}

static void forget_all(void) {
    for (size_t i = 0; i < tree.source_count; i++)
        free(tree.sources[i].text);
}

TestSuite(layers, .fini = forget_all);

Test(layers, the_source_keeps_to_its_rooms) {
    read_tree();
    char *findings = check_all();
    cr_assert(tree.source_count > 100 && tree.arrow_count > 200, "only %zu files with %zu includes were read",
              tree.source_count, tree.arrow_count);
    cr_assert(*findings == '\0', "the rooms of the source:\n%s", findings);
    free(findings);
}

// --- the check itself ---

#define MADE_UP_MAX 8

// A small source with one kind of fault, and what is found in it.
static const struct made_up {
    struct {
        const char *path, *text;
    } files[MADE_UP_MAX];
    const char *findings;
} made_up[] = {
    // What is allowed.
    {{{"schema/a.h", "#pragma once\n"},
      {"codecs/b.c", "#include \"schema/a.h\"\n#include <gateway/run/run.h>\n"},
      {"gateway/base/c.h", "#include \"schema/a.h\"\n"},
      {"gateway/base/c.c", "#include \"gateway/base/c.h\"\n"},
      {"gateway/state/d.c", "#include \"gateway/base/c.h\"\n#include \"schema/generated.h\"\n"},
      {"gateway/cli/e.c", "// x\n#include \"gateway/base/c.h\"\n#include \"gateway/web/x.h\"\n"}},
     ""},
    // Rooms.
    {{{"schema/a.c", "#include \"codecs/b.h\"\n"}},
     "schema/a.c -> codecs/b.h: schema/ may not know codecs/\n"},
    {{{"codecs/a.c", "int a;\n#include \"gateway/base/log.h\""}},
     "codecs/a.c -> gateway/base/log.h: codecs/ may not know gateway/base/\n"},
    {{{"gateway/base/a.h", "#include \"gateway/config/b.h\"\n"}},
     "gateway/base/a.h -> gateway/config/b.h: gateway/base/ may not know gateway/config/\n"},
    {{{"gateway/state/a.c", "#include \"gateway/commands/b.h\"\n"},
      {"gateway/commands/c.c", "#include \"gateway/state/d.h\"\n"}},
     "gateway/state/a.c -> gateway/commands/b.h: gateway/state/ may not know gateway/commands/\n"
     "gateway/commands/c.c -> gateway/state/d.h: gateway/commands/ may not know gateway/state/\n"},
    {{{"gateway/fleet/a.c", "#include \"gateway/channels/b.h\"\n"}},
     "gateway/fleet/a.c -> gateway/channels/b.h: gateway/fleet/ may not know gateway/channels/\n"},
    {{{"gateway/run/a.c", "#include \"gateway/watch/b.h\"\n#include \"gateway/fleet/c.h\"\n"}},
     "gateway/run/a.c -> gateway/watch/b.h: gateway/run/ may not know gateway/watch/\n"},
    {{{"gateway/watch/a.c", "#include \"gateway/run/b.h\"\n"}},
     "gateway/watch/a.c -> gateway/run/b.h: gateway/watch/ may not know gateway/run/\n"},
    {{{"gateway/a.c", ""}, {"gateway/attic/b.c", "#include \"gateway/base/c.h\"\n"}},
     "gateway/a.c: is in no room\ngateway/attic/b.c: is in no room\n"},
    {{{"gateway/base/a.c", "#include \"tests/b.h\"\n"}}, "gateway/base/a.c -> tests/b.h: is in no room\n"},
    // Circles: of two, of three by way of a .c, by a name without its folder.
    {{{"schema/a.h", "#include \"schema/b.h\"\n"}, {"schema/b.h", "#include \"schema/a.h\"\n"}},
     "schema/b.h -> schema/a.h: a circle: schema/a -> schema/b -> schema/a\n"},
    {{{"codecs/a.h", "#include \"codecs/b.h\"\n"},
      {"codecs/b.h", ""},
      {"codecs/b.c", "#include \"codecs/b.h\"\n#include \"codecs/c.h\"\n"},
      {"codecs/c.h", "#include \"codecs/a.h\"\n"}},
     "codecs/c.h -> codecs/a.h: a circle: codecs/a -> codecs/b -> codecs/c -> codecs/a\n"},
    {{{"codecs/a.h", "#include \"b.h\"\n"}, {"codecs/b.c", "#include \"codecs/a.h\"\n"}},
     "codecs/b.c -> codecs/a.h: a circle: codecs/a -> codecs/b -> codecs/a\n"},
    // A header that everything includes; base/ may have such ones.
    {{{"gateway/config/a.h", "#include \"gateway/base/log.h\"\n"},
      {"gateway/config/b.h", "#include \"gateway/config/a.h\"\n#include \"gateway/base/log.h\"\n"},
      {"gateway/config/b.c", "#include \"gateway/config/a.h\"\n#include \"gateway/config/b.h\"\n"},
      {"gateway/config/c.c", "#include \"gateway/config/a.h\"\n#include \"gateway/base/log.h\"\n"},
      {"gateway/config/d.c", ""},
      {"gateway/base/log.h", ""}},
     ""},
    {{{"gateway/config/a.h", ""},
      {"gateway/config/b.h", "#include \"gateway/config/a.h\"\n"},
      {"gateway/config/c.c", "#include \"gateway/config/a.h\"\n"},
      {"gateway/config/d.c", ""}},
     "gateway/config/a.h: is included by 2 of 3 other modules, expected at most half\n"},
};

Test(layers, each_kind_of_fault_is_found) {
    for (size_t i = 0; i < sizeof made_up / sizeof made_up[0]; i++) {
        tree = (struct tree){0};
        for (size_t j = 0; j < MADE_UP_MAX && made_up[i].files[j].path != NULL; j++)
            add_source(made_up[i].files[j].path, strdup(made_up[i].files[j].text));
        char *findings = check_all();
        cr_expect_str_eq(findings, made_up[i].findings, "set %zu: found:\n%s", i, findings);
        free(findings);
        forget_all();
    }
    tree.source_count = 0;
}

// A function of so many lines, after a struct and with a label, a comment and a macro at the start of a line.
static char *make_function(int lines) {
    char *text;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    fputs("struct s {\n    int a;\n};\n\n// says\nstatic void f(int a,\n              int b) {\n", out);
    fputs("done:\n// x\n#if 0\n#endif\n    if (a) {\n    }\n", out);
    for (int i = 9; i < lines; i++)
        fputs("    a++;\n", out);
    fputs("}\n", out);
    fclose(out);
    return text;
}

Test(layers, a_long_function_is_found) {
    add_source("schema/fits.c", make_function(LINES_MAX));
    add_source("schema/long.c", make_function(LINES_MAX + 1));
    char *findings = check_all();
    cr_assert_str_eq(findings, "schema/long.c:6: 51 lines, expected at most 50: static void f(int a,\n");
    free(findings);
}
