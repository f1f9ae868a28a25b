// What flespi's clients write to say which items they mean, and which members of them; and their tokens.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/web/login.h"
#include "gateway/web/selector.h"
#include "tests/temporary.h"

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

// --- tokens ---

static const char *user_of(struct login *login, const char *start, const char *secret,
                           enum login_result *result) {
    char header[200];
    snprintf(header, sizeof header, "%s%s", start, secret);
    return login_header(login, "192.0.2.7", header, 1, result);
}

static void expect_user(struct login *login, const char *start, const char *secret, const char *name) {
    enum login_result result;
    const char *user = user_of(login, start, secret, &result);
    cr_assert(user != NULL && strcmp(user, name) == 0 && result == LOGIN_DONE, "%s%s: %s", start, secret,
              user);
}

static void expect_nobody(struct login *login, const char *start, const char *secret, enum login_result why) {
    enum login_result result;
    cr_assert_null(user_of(login, start, secret, &result), "%s%s", start, secret);
    cr_assert_eq(result, why);
}

// Whoever gets the file cannot log in with what stands there.
static void expect_hashes_are_no_tokens(struct login *login, const char *path) {
    char line[200], *hash;
    FILE *file = fopen(path, "re");
    while (fgets(line, sizeof line, file) != NULL && (hash = strstr(line, "$token$")) != NULL) {
        hash[strcspn(hash, "\n")] = '\0';
        expect_nobody(login, LOGIN_TOKEN, hash, LOGIN_WRONG);
        expect_nobody(login, LOGIN_TOKEN, hash + strlen("$token$"), LOGIN_WRONG);
    }
    fclose(file);
}

Test(flespi, tokens_stand_beside_passwords) {
    char folder[TEMPORARY_MAX], path[TEMPORARY_MAX + 16], first[LOGIN_TOKEN_SIZE], second[LOGIN_TOKEN_SIZE];
    make_temporary(folder, "tokens");
    snprintf(path, sizeof path, "%s/users", folder);
    cr_assert_null(login_add_token(path, "fleet", first));
    cr_assert_null(login_check_file(path)); // a token is enough
    cr_assert_null(login_add_token(path, "fleet", second));
    cr_assert_null(login_add_user(path, "fleet", "a first password"));
    cr_assert_null(login_add_user(path, "fleet", "a good password"));
    struct login *login = login_new(path);
    expect_user(login, LOGIN_TOKEN, first, "fleet");
    expect_user(login, LOGIN_TOKEN, second, "fleet");
    expect_user(login, "Basic ", "ZmxlZXQ6YSBnb29kIHBhc3N3b3Jk", "fleet");
    expect_nobody(login, "", first, LOGIN_WRONG);
    expect_hashes_are_no_tokens(login, path);
    expect_nobody(login, "Basic ", "ZmxlZXQ6YSBmaXJzdCBwYXNzd29yZA==", LOGIN_WRONG);
    expect_user(login, LOGIN_TOKEN, first, "fleet"); // it is known, and not checked again
    expect_nobody(login, LOGIN_TOKEN, "", LOGIN_TOO_OFTEN);
    login_free(login);
    unlink(path);
    rmdir(folder);
}
