// The gateway's own log: that nobody can fill it, and that whoever tries leaves no others out.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/base/limiter.h"
#include "gateway/base/log.h"

static char *lines[10000];
static size_t count;

static void keep(void *context, enum log_level level, const char *text) {
    cr_assert(count < sizeof lines / sizeof lines[0]);
    lines[count++] = strdup(text);
}

static void set_up(void) {
    count = 0;
    log_divert(keep, NULL);
}

static void tear_down(void) {
    while (count > 0)
        free(lines[--count]);
    log_divert(NULL, NULL);
}

TestSuite(log, .init = set_up, .fini = tear_down);

static size_t count_of(const char *text) {
    size_t found = 0;
    for (size_t i = 0; i < count; i++)
        found += strstr(lines[i], text) != NULL;
    return found;
}

// A second may end in the middle.
Test(log, of_one_source_only_so_many_lines_come_in_a_second) {
    for (int i = 0; i < 5000; i++)
        log_about("a device", LOG_INFO, "device %s: unexpected answer %d", "a", i);
    cr_expect(count >= LOG_LINES && count <= 10 * LOG_LINES, "%zu lines", count);
    log_about("another", LOG_INFO, "device %s: unexpected answer %d", "b", 1);
    log_about("a device", LOG_INFO, "device %s: command sent", "a");
    cr_expect(count_of("device b") == 1, "another one's is left out");
    cr_expect(count_of("command sent") == 1, "another kind is left out");
}

Test(log, of_many_sources_only_so_many_lines_come_in_a_second) {
    char source[32];
    for (int i = 0; i < 5000; i++) {
        snprintf(source, sizeof source, "topic/%d", i);
        log_about(source, LOG_WARNING, "%s: rejected", source);
    }
    cr_expect(count >= LOG_KIND_LINES && count <= 10 * LOG_KIND_LINES, "%zu lines", count);
}

static void wait_for_another_second(size_t before) {
    while (count == before) {
        log_about("a device", LOG_INFO, "flood");
        struct timespec pause = {.tv_nsec = 10000000};
        nanosleep(&pause, NULL);
    }
}

Test(log, says_how_many_were_left_out) {
    for (int i = 0; i < 1000; i++)
        log_about("a device", LOG_INFO, "flood");
    wait_for_another_second(count);
    cr_expect(count_of("more like the next line were left out") >= 1);
}

Test(log, passes_no_control_characters_on) {
    log_error("a %s b", "\x1b[31m\x07\x7f\r\n");
    cr_assert(count == 1);
    for (const char *c = lines[0]; *c != '\0'; c++)
        cr_expect((unsigned char)*c >= 0x20 && *c != 0x7f, "%s has %02x", lines[0], *c);
}

Test(log, cuts_a_line_between_two_characters) {
    char *text = malloc(60001);
    for (size_t i = 0; i < 60000; i += 2)
        memcpy(text + i, "ü", 2);
    text[60000] = '\0';
    log_warning("x%s", text);
    log_warning("%s", text);
    for (size_t i = 0; i < 2; i++) {
        size_t length = strlen(lines[i]);
        cr_expect(length <= LOG_LINE_MAX && length > LOG_LINE_MAX - 10);
        cr_expect(strcmp(lines[i] + length - strlen("ü…"), "ü…") == 0);
    }
    free(text);
}

// The example of its authors.
Test(log, hash_is_the_one_that_it_says) {
    uint64_t key[2];
    uint8_t bytes[16];
    for (uint8_t i = 0; i < 16; i++)
        bytes[i] = i;
    memcpy(key, bytes, sizeof key);
    cr_expect(limiter_hash(key, bytes, 15) == 0xa129ca6149be45e5U);
}

Test(log, sources_that_collide_are_others_in_each_run) {
    struct limiter one = {.per_second = 1}, two = {.per_second = 1};
    limiter_allows(&one, 0, "a", 1, NULL);
    limiter_allows(&two, 0, "a", 1, NULL);
    cr_expect(memcmp(one.key, two.key, sizeof one.key) != 0);
}

// Whatever comes from outside: C0, C1, DEL, marks of direction, ends of lines, bytes that are no text.
Test(log, shows_what_a_terminal_would_obey) {
    log_warning("a\x1b[31m \xc2\x9b"
                "31m \x7f \u202e \u2028 \xff b");
    cr_expect_str_eq(lines[0], "a\\x1b[31m \\u009b31m \\x7f \\u202e \\u2028 \\xff b", "'%s'", lines[0]);
}
