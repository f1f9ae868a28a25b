// Reads the pages and finds the marked blocks in them; see pages.h.
#include "tests/pages.h"

#include <criterion/criterion.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGES_MAX 32
#define NAME_MAX_ 64
#define FENCE     "\n```"
#define MARK      " test="

static char *read_text(const char *path) {
    char *text = NULL;
    size_t length = 0;
    FILE *file = fopen(path, "r"), *memory = open_memstream(&text, &length);
    cr_assert(file != NULL, "cannot read %s", path);
    putc('\n', memory); // so that every line begins after one
    for (int c; (c = getc(file)) != EOF;)
        putc(c, memory);
    fclose(memory);
    fclose(file);
    return text;
}

static size_t read_pages(struct page *pages) {
    static const char pattern[] = TEST_ROOT "/{,codecs/,docker/,gateway/,schema/,tests/,tests/vectors/}*.md";
    glob_t found;
    cr_assert(glob(pattern, GLOB_BRACE, NULL, &found) == 0 && found.gl_pathc <= PAGES_MAX);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        pages[i].name = strdup(found.gl_pathv[i] + sizeof TEST_ROOT);
        pages[i].text = read_text(found.gl_pathv[i]);
    }
    size_t count = found.gl_pathc;
    globfree(&found);
    return count;
}

const struct page *pages_all(size_t *count) {
    static struct page pages[PAGES_MAX];
    static size_t read;
    if (read == 0)
        read = read_pages(pages);
    *count = read;
    return pages;
}

const struct page *page_find(const char *name) {
    size_t count;
    const struct page *pages = pages_all(&count);
    for (size_t i = 0; i < count; i++)
        if (strcmp(pages[i].name, name) == 0)
            return &pages[i];
    return NULL;
}

// --- marked blocks ---

// The next opening of a marked block from at on; its name goes to name. Returns where its text begins, or
// NULL.
static const char *next_block(const char *at, char name[NAME_MAX_]) {
    while ((at = strstr(at, FENCE)) != NULL) {
        const char *line = at + 1, *end = strchrnul(line, '\n');
        const char *mark = memmem(line, (size_t)(end - line), MARK, strlen(MARK));
        if (mark != NULL) {
            mark += strlen(MARK);
            snprintf(name, NAME_MAX_, "%.*s", (int)(end - mark), mark);
            return end;
        }
        at = end;
    }
    return NULL;
}

void pages_each_mark(void (*each)(const struct page *page, const char *name)) {
    char name[NAME_MAX_];
    size_t count;
    const struct page *pages = pages_all(&count);
    for (size_t i = 0; i < count; i++)
        for (const char *at = pages[i].text; (at = next_block(at, name)) != NULL;)
            each(&pages[i], name);
}

char *page_block(const char *wanted) {
    char name[NAME_MAX_], *found = NULL;
    size_t count;
    const struct page *pages = pages_all(&count);
    for (size_t i = 0; i < count; i++)
        for (const char *at = pages[i].text; (at = next_block(at, name)) != NULL;) {
            if (strcmp(name, wanted) != 0)
                continue;
            cr_assert(found == NULL, "two blocks are marked test=%s", wanted);
            const char *end = strstr(at, FENCE);
            cr_assert(end != NULL, "%s: the block test=%s has no end", pages[i].name, wanted);
            found = strndup(at + 1, (size_t)(end - at));
        }
    cr_assert(found != NULL, "no page has a block marked test=%s", wanted);
    return found;
}
