// What flespi's clients write to say which items they mean, and which members of them; and their tokens.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gateway/web/flespi_walk.h"
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
    char *ids = calloc(1, 16384), *conditions = many("id=42,", 21);
    refuses(nested, "longer than 1024 bytes");
    refuses(deep, "too many (");
    refuses(not, "too many (");
    conditions[strlen(conditions) - 1] = '\0';
    refuses(conditions, "more than 20 comparisons");
    cr_expect(takes(conditions + strlen("id=42,")));
    free(conditions);
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

static bool wants(const char *text, const char *name) {
    struct fields fields = {.text = text};
    bool result = fields_want(&fields, name);
    cr_expect_eq(fields_want(&fields, name), result);
    fields_free(&fields);
    return result;
}

Test(flespi, fields_are_wanted_by_name_and_by_pattern) {
    cr_expect(wants(NULL, "id"));
    cr_expect(wants("", "id"));
    cr_expect(wants("all", "id"));
    cr_expect(wants("name,all", "id"));
    cr_expect(wants("name,id", "id"));
    cr_expect(wants("position.*", "position.speed"));
    cr_expect_not(wants("name,position.*", "id"));
    cr_expect_not(wants("identity", "id"));
    cr_expect_not(wants(",", "id"));
}

// Another text after it was read changes nothing: it is not read for each item.
Test(flespi, fields_are_read_once_for_each_name) {
    char text[] = "name,position.*";
    struct fields fields = {.text = text};
    cr_expect(fields_want(&fields, "name"));
    cr_expect_not(fields_want(&fields, "id"));
    strcpy(text, "id");
    cr_expect(fields_want(&fields, "name"));
    cr_expect_not(fields_want(&fields, "id"));
    cr_expect_eq(json_object_size(fields.decided), 2);
    fields_free(&fields);
}

static void refuses_fields(char *text, const char *why) {
    char *reason = fields_fault(text);
    cr_assert(reason != NULL && strcmp(reason, why) == 0, "%.60s: %s", text, reason);
    free(reason);
    free(text);
}

Test(flespi, fields_have_bounds) {
    char *most = many(",", FIELDS_MAX - 1), *longest = many("x", FIELDS_LENGTH_MAX);
    cr_expect_null(fields_fault(NULL));
    cr_expect_null(fields_fault(most));
    cr_expect_null(fields_fault(longest));
    refuses_fields(many(",", FIELDS_MAX), "there are more than 100 fields");
    refuses_fields(many("x", FIELDS_LENGTH_MAX + 1), "fields are longer than 1024 bytes");
    free(most);
    free(longest);
}

static json_t *count_up(void *context, const char *name) {
    ++*(unsigned *)context;
    return strcmp(name, "name") == 0 ? json_string("Van 1") : NULL;
}

Test(flespi, a_value_is_asked_for_once_however_often_it_is_compared) {
    unsigned asked = 0;
    const char *text = "(name=V*||names||name=x)&&name&&!names&&name==\"Van 1\"&&(nam||name)";
    const struct expression expression = {text, strlen(text), false};
    cr_assert_null(expression_fault(&expression));
    cr_expect(expression_holds(&expression, count_up, &asked));
    cr_expect_eq(asked, 3, "%u", asked);
}

// --- a large fleet ---

#define LARGE 2500

static void add_devices(struct fleet *fleet, int64_t first, int64_t end) {
    for (int64_t id = first; id < end; id++) {
        struct report identity = {.id = id, .type = -1, .channel = -1};
        snprintf(identity.ident, sizeof identity.ident, "%lld", 866425000000000LL + (long long)id);
        snprintf(identity.name, sizeof identity.name, "Van %lld", (long long)id);
        fleet_identity(fleet, id, &identity);
    }
}

// What a walk gives.
struct walked {
    char *text;
    size_t length, portions;
};

static void read_portion(struct walked *walked, struct flespi_walk *walk, ssize_t *length) {
    walked->text = realloc(walked->text, walked->length + 4097);
    *length = flespi_walk_read(walk, walked->text + walked->length, 4096);
    cr_assert(*length == -1 || (*length > 0 && *length <= 4096), "%zd", *length);
    if (*length > 0)
        walked->length += (size_t)*length;
    walked->portions++;
}

static struct flespi_walk *walk_of(struct fleet *fleet, const char *text, const char *fields) {
    struct selector selector;
    struct flespi_list list = {.fields.text = fields, .limit = SIZE_MAX};
    text_out_bytes(&list.result, "{\"result\":[", 11);
    char *copy = strdup(text);
    cr_assert_null(selector_read(&selector, copy, strlen(copy)));
    struct flespi_walk *walk = flespi_walk_new(fleet, &selector, &list);
    memset(copy, '!', strlen(copy)); // it has texts of its own
    free(copy);
    return walk;
}

// Reads to the end, and frees the walk.
static json_t *rest_of(struct walked *walked, struct flespi_walk *walk) {
    ssize_t length;
    do
        read_portion(walked, walk, &length);
    while (length > 0);
    flespi_walk_free(walk);
    json_t *whole = json_loadb(walked->text, walked->length, 0, NULL);
    cr_assert_not_null(whole, "%.*s", (int)walked->length, walked->text);
    free(walked->text);
    return whole;
}

static size_t walk_all(struct fleet *fleet, const char *selector, size_t *portions) {
    struct walked walked = {0};
    json_t *whole = rest_of(&walked, walk_of(fleet, selector, "id,name"));
    size_t count = json_array_size(json_object_get(whole, "result"));
    json_decref(whole);
    *portions = walked.portions;
    return count;
}

// A portion looks at a bounded number of devices, whether they are taken or not.
Test(flespi, a_large_fleet_is_listed_in_portions) {
    struct fleet fleet = {0};
    size_t portions;
    add_devices(&fleet, 1, LARGE + 1);
    cr_expect_eq(walk_all(&fleet, "all", &portions), LARGE);
    cr_expect_eq(walk_all(&fleet, "{name=Van* && configuration.ident=8664*}", &portions), LARGE);
    cr_expect_eq(walk_all(&fleet, "name=Van 7", &portions), 1);
    cr_expect_eq(walk_all(&fleet, "name=Lorry", &portions), 0);
    cr_expect_geq(portions, LARGE / FLESPI_LOOKS_MAX, "%zu", portions);
    fleet_free(&fleet);
}

// Each that is there from the beginning to the end comes once.
Test(flespi, a_fleet_that_changes_while_it_is_listed_is_listed_right) {
    struct fleet fleet = {0};
    struct walked walked = {0};
    ssize_t length;
    add_devices(&fleet, 1, LARGE + 1);
    struct flespi_walk *walk = walk_of(&fleet, "all", "id");
    read_portion(&walked, walk, &length); // what stands before the first
    for (int64_t id = 1; id <= LARGE; id += 2)
        fleet_identity(&fleet, id, NULL);
    for (int64_t id = 2; id <= LARGE; id += 10)
        fleet_heard(&fleet, id, 1700000000000000 + id); // to the front
    add_devices(&fleet, LARGE + 1, 2 * LARGE);
    json_t *whole = rest_of(&walked, walk), *item;
    bool came[LARGE + 1] = {false};
    size_t i;
    json_array_foreach(json_object_get(whole, "result"), i, item) {
        json_int_t id = json_integer_value(json_object_get(item, "id"));
        cr_assert(id >= 1 && id <= LARGE && id % 2 == 0 && !came[id], "%lld", (long long)id);
        came[id] = true;
    }
    cr_expect_eq(i, LARGE / 2);
    json_decref(whole);
    fleet_free(&fleet);
}

static bool add_id(void *context, const struct fleet_device *device) {
    *(int64_t *)context += device->id;
    return true;
}

static bool comes_later(void *context, const struct fleet_device *device) {
    int64_t *last = context;
    cr_assert_gt(device->id, *last);
    *last = device->id;
    return true;
}

// Who reads page by page must not miss one because another was heard meanwhile.
Test(flespi, devices_are_listed_by_id_whoever_was_heard_last) {
    const struct selector all = {.kind = SELECT_ALL};
    struct flespi_list list = {.limit = SIZE_MAX};
    struct fleet fleet = {0};
    struct walked walked = {0};
    int64_t last = 0;
    size_t i;
    add_devices(&fleet, 1, 21);
    for (int64_t id = 3; id <= 20; id += 3)
        fleet_heard(&fleet, id, 1700000000000000 - id);
    flespi_each_device(&fleet, &all, &list, comes_later, &last);
    cr_assert_eq(last, 20);
    json_t *whole = rest_of(&walked, walk_of(&fleet, "all", "id")), *item;
    json_array_foreach(json_object_get(whole, "result"), i, item) {
        cr_assert_eq(json_integer_value(json_object_get(item, "id")), (json_int_t)i + 1);
    }
    cr_assert_eq(i, 20);
    json_decref(whole);
    flespi_list_free(&list);
    fleet_free(&fleet);
}

// Each call looks at a bounded number of devices. What went meanwhile is not told.
Test(flespi, few_of_a_large_fleet_are_found_in_portions) {
    struct fleet fleet = {0};
    int64_t sum = 0;
    size_t calls = 1;
    add_devices(&fleet, 1, LARGE + 1);
    struct flespi_walk *walk = walk_of(&fleet, "{id==7||id==700||id==2300}", NULL);
    for (; !flespi_walk_choose(walk); calls++)
        ;
    cr_expect_eq(calls, LARGE / FLESPI_LOOKS_MAX, "%zu", calls);
    fleet_identity(&fleet, 700, NULL);
    flespi_walk_chosen(walk, add_id, &sum);
    cr_expect_eq(sum, 2307);
    flespi_walk_free(walk);
    walk = walk_of(&fleet, "{id>0}", NULL);
    cr_expect(flespi_walk_choose(walk), "the first 51 are too many already");
    flespi_walk_free(walk);
    fleet_free(&fleet);
}

Test(flespi, lists_that_are_read_at_once_have_a_bound) {
    struct fleet fleet = {0};
    const struct selector all = {.kind = SELECT_ALL};
    struct flespi_walk *walks[FLESPI_WALKS_MAX];
    struct flespi_list list = {0};
    for (size_t i = 0; i < FLESPI_WALKS_MAX; i++)
        cr_assert_not_null(walks[i] = flespi_walk_new(&fleet, &all, &list));
    cr_expect_null(flespi_walk_new(&fleet, &all, &list));
    flespi_walk_free(walks[0]);
    cr_expect_not_null(walks[0] = flespi_walk_new(&fleet, &all, &list));
    for (size_t i = 0; i < FLESPI_WALKS_MAX; i++)
        flespi_walk_free(walks[i]);
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
static void expect_hashes_are_no_tokens(struct login *login, const char *path, size_t count) {
    char line[200], *hash;
    FILE *file = fopen(path, "re");
    while (fgets(line, sizeof line, file) != NULL && (hash = strstr(line, "$token$")) != NULL) {
        hash[strcspn(hash, "\n")] = '\0';
        expect_nobody(login, LOGIN_TOKEN, hash, LOGIN_WRONG);
        expect_nobody(login, LOGIN_TOKEN, hash + strlen("$token$"), LOGIN_WRONG);
        count--;
    }
    fclose(file);
    cr_assert_eq(count, 0, "not all of the hashes were tried");
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
    expect_hashes_are_no_tokens(login, path, 2);
    expect_nobody(login, "Basic ", "ZmxlZXQ6YSBmaXJzdCBwYXNzd29yZA==", LOGIN_WRONG);
    expect_user(login, LOGIN_TOKEN, first, "fleet"); // it is known, and not checked again
    login_free(login);
    unlink(path);
    rmdir(folder);
}

// Many may have one address, behind a proxy.
Test(flespi, wrong_tokens_keep_out_nobody_else) {
    char folder[TEMPORARY_MAX], path[TEMPORARY_MAX + 16], token[LOGIN_TOKEN_SIZE];
    make_temporary(folder, "tokens");
    snprintf(path, sizeof path, "%s/users", folder);
    cr_assert_null(login_add_user(path, "fleet", "a good password"));
    cr_assert_null(login_add_token(path, "fleet", token));
    struct login *login = login_new(path);
    for (int i = 0; i < 5; i++)
        expect_nobody(login, LOGIN_TOKEN, "0123", LOGIN_WRONG);
    for (int i = 0; i < 200; i++)
        expect_nobody(login, LOGIN_TOKEN, "0123", LOGIN_TOO_OFTEN);
    expect_user(login, LOGIN_TOKEN, token, "fleet");
    expect_user(login, "Basic ", "ZmxlZXQ6YSBnb29kIHBhc3N3b3Jk", "fleet");
    login_free(login);
    unlink(path);
    rmdir(folder);
}

#define AT_ONCE 8
#define EACH    10

static void add_tokens(const char *path) {
    char token[LOGIN_TOKEN_SIZE];
    for (int i = 0; i < EACH; i++)
        if (login_add_token(path, "fleet", token) != NULL)
            _exit(1);
    _exit(0);
}

static size_t lines_of(const char *path) {
    FILE *file = fopen(path, "re");
    size_t lines = 0;
    for (int c = getc(file); c != EOF; c = getc(file))
        lines += c == '\n';
    fclose(file);
    return lines;
}

// Each token that was given out is in the file; and who could read the file can still do so.
Test(flespi, tokens_that_are_added_at_once_are_all_in_the_file) {
    char folder[TEMPORARY_MAX], path[TEMPORARY_MAX + 16], token[LOGIN_TOKEN_SIZE];
    struct stat before, after;
    make_temporary(folder, "tokens");
    snprintf(path, sizeof path, "%s/users", folder);
    cr_assert_null(login_add_token(path, "fleet", token));
    chmod(path, 0640);
    cr_assert_eq(stat(path, &before), 0);
    for (int i = 0; i < AT_ONCE; i++)
        if (fork() == 0)
            add_tokens(path);
    for (int i = 0, status; i < AT_ONCE; i++)
        cr_expect(wait(&status) > 0 && status == 0);
    cr_expect_eq(lines_of(path), 1 + AT_ONCE * EACH, "%zu", lines_of(path));
    cr_assert_eq(stat(path, &after), 0);
    cr_expect(after.st_mode == before.st_mode && after.st_uid == before.st_uid &&
              after.st_gid == before.st_gid);
    unlink(path);
    cr_expect_eq(rmdir(folder), 0); // nothing is left beside it
}
