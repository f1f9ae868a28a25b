// What flespi's clients write to say which items they mean, and which members of them.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/web/selector.h"

static const char van[] = "{\"id\":42,\"name\":\"Van 1\",\"connected\":true,\"alarm\":false,\"note\":null,"
                          "\"configuration\":{\"ident\":\"866425031361423\"},\"position.speed\":61.5,"
                          "\"position.latitude\":0}";

static bool takes(const char *text) {
    struct selector selector;
    json_t *item = json_loads(van, 0, NULL);
    char *reason = selector_read(&selector, text, strlen(text));
    cr_assert_null(reason, "%s: %s", text, reason);
    bool result = selector_takes(&selector, 42, expression_member, item);
    selector_free(&selector);
    json_decref(item);
    return result;
}

// It cannot be understood, and the reason says why.
static void refuses(const char *text, const char *why) {
    struct selector selector;
    char *reason = selector_read(&selector, text, strlen(text));
    selector_free(&selector);
    cr_assert(reason != NULL && strstr(reason, why) != NULL, "%.60s: %s", text, reason);
    free(reason);
}

Test(flespi, selectors_take_what_they_say) {
    static const char *const taken[] = {"all",
                                        "42",
                                        "1,42,3",
                                        "name=Van 1",
                                        "name=Van*",
                                        "name=*1",
                                        "name=V?n*,connected=true",
                                        "configuration.ident=8664*",
                                        "id=42",
                                        "{name==\"Van 1\"}",
                                        "{name=='Van 1' && position.speed > 60}",
                                        "{name==x||id==42}",
                                        "{$missing || (connected && !alarm)}",
                                        "{!missing}",
                                        "{position.latitude}",
                                        "{position.speed<=61.5&&position.speed>=61.5&&position.speed!=61}",
                                        "{name~\"V*\"}"};
    static const char *const left[] = {"1",
                                       "43,44",
                                       "name=Van",
                                       "name=Van*,connected=false",
                                       "missing=1",
                                       "missing!=1",
                                       "configuration=1",
                                       "{name==\"Van*\"}",
                                       "{alarm}",
                                       "{note}",
                                       "{position.speed>61.5}",
                                       "{position.speed==fast}",
                                       "{id==42&&id==43||name==x}"};
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++)
        cr_expect(takes(taken[i]), "%s", taken[i]);
    for (size_t i = 0; i < sizeof left / sizeof left[0]; i++)
        cr_expect_not(takes(left[i]), "%s", left[i]);
}

Test(flespi, selectors_that_make_no_sense_are_refused_with_a_reason) {
    refuses("", "a name is expected");
    refuses("42,", "something else than ids");
    refuses("42;43", "something else than ids");
    refuses("1e3", "something else than ids");
    refuses("99999999999999999999", "something else than ids");
    refuses("name=", "a value");
    refuses("=Van", "a name is expected");
    refuses("{", "a name is expected");
    refuses("{}", "a name is expected");
    refuses("{{name}}", "a name is expected");
    refuses("{name==\"Van}", "quotation mark");
    refuses("{(name}", "a ) is expected");
    refuses("{name)}", "cannot be understood at byte 5");
    refuses("{name && }", "a name is expected");
    refuses("{name x}", "cannot be understood");
    refuses("\xff=1", "a name is expected");
}

static char *many(const char *text, size_t count) {
    size_t length = strlen(text);
    char *all = calloc(count, length + 1);
    for (size_t i = 0; i < count; i++)
        memcpy(all + i * length, text, length);
    return all;
}

Test(flespi, selectors_have_bounds) {
    char *nested = many("{", 8192), *deep = many("(", 1000), *not = many("!", 1000),
         *same = many("42,", 2000);
    char *ids = calloc(1, 16384);
    refuses(nested, "longer than 1024 bytes");
    refuses(deep, "too many (");
    refuses(not, "too many (");
    same[strlen(same) - 1] = '\0';
    cr_expect(takes(same));
    for (int i = 0; i <= SELECTOR_IDS_MAX; i++)
        sprintf(ids + strlen(ids), "%s%d", i > 0 ? "," : "", i);
    refuses(ids, "more than 1000 ids");
    free(nested);
    free(deep);
    free(not );
    free(same);
    free(ids);
}

// A pattern of many stars is not tried in all ways that there are.
Test(flespi, patterns_take_no_time, .timeout = 15) {
    char *pattern = many("*a", 120), *text = many("a", 100000);
    cr_expect(expression_is_like(pattern, strlen(pattern), text));
    text[99999] = 'b';
    cr_expect_not(expression_is_like(pattern, strlen(pattern), text));
    free(pattern);
    free(text);
}

Test(flespi, fields_are_wanted_by_name_and_by_pattern) {
    cr_expect(selector_wants(NULL, "id"));
    cr_expect(selector_wants("", "id"));
    cr_expect(selector_wants("all", "id"));
    cr_expect(selector_wants("name,id", "id"));
    cr_expect(selector_wants("position.*", "position.speed"));
    cr_expect_not(selector_wants("name,position.*", "id"));
    cr_expect_not(selector_wants("identity", "id"));
    cr_expect_not(selector_wants(",", "id"));
}
