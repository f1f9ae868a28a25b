// Positions without GPS, part by part: what a device sees, the question, the answer, pauses, what is remembered.
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/geolocation/answer.h"
#include "gateway/geolocation/breaker.h"
#include "gateway/geolocation/places.h"
#include "gateway/geolocation/requests.h"
#include "gateway/geolocation/surroundings.h"
#include "tests/allocations.h"
#include "tests/carrier.h"
#include "tests/e2e/rig.h"
#include "tests/geo_service.h"

static struct message message;
static struct surroundings seen;

static void set_up(void) {
    message_reset(&message);
}

TestSuite(locating, .init = set_up);

// --- what a device sees ---

static void add_point(const char *mac, int rssi, const char *ssid) {
    if (message_get(&message, FIELD_WIFI_ACCESS_POINTS) == NULL)
        message_add_list(&message, FIELD_WIFI_ACCESS_POINTS);
    message_add_row(&message, FIELD_WIFI_ACCESS_POINTS);
    message_set_text(&message, FIELD_WIFI_ACCESS_POINTS_MAC, mac, strlen(mac));
    message_set_integer(&message, FIELD_WIFI_ACCESS_POINTS_RSSI, rssi);
    if (ssid != NULL)
        message_set_text(&message, FIELD_WIFI_ACCESS_POINTS_SSID, ssid, strlen(ssid));
}

static void set_cell(int mcc, int mnc, int lac, int cellid) {
    message_set_integer(&message, FIELD_GSM_MCC, mcc);
    message_set_integer(&message, FIELD_GSM_MNC, mnc);
    message_set_integer(&message, FIELD_GSM_LAC, lac);
    message_set_integer(&message, FIELD_GSM_CELLID, cellid);
}

static void list_cell(int mcc, int mnc, int lac, int cellid, int pcid) {
    if (message_get(&message, FIELD_GSM_CELLS) == NULL)
        message_add_list(&message, FIELD_GSM_CELLS);
    message_add_row(&message, FIELD_GSM_CELLS);
    message_set_integer(&message, FIELD_GSM_CELLS_MCC, mcc);
    message_set_integer(&message, FIELD_GSM_CELLS_MNC, mnc);
    message_set_integer(&message, FIELD_GSM_CELLS_LAC, lac);
    message_set_integer(&message, FIELD_GSM_CELLS_CELLID, cellid);
    if (pcid >= 0)
        message_set_integer(&message, FIELD_GSM_CELLS_PCID, pcid);
}

static void expect_question(const char *text) {
    char *question = surroundings_question(&seen);
    cr_expect_str_eq(question, text);
    free(question);
}

Test(locating, asks_about_access_points_and_cells) {
    add_point("b0:b2:dc:bd:43:0f", -91, NULL);
    add_point("6a:db:54:5a:79:6d", -48, "cafe");
    set_cell(460, 0, 22022, 11010);
    cr_assert(surroundings_of(&message, &seen));
    expect_question("{\"cellTowers\":[{\"cellId\":11010,\"locationAreaCode\":22022,\"mobileCountryCode\":460,"
                    "\"mobileNetworkCode\":0,\"radioType\":\"gsm\"}],\"considerIp\":false,"
                    "\"wifiAccessPoints\":[{\"macAddress\":\"b0:b2:dc:bd:43:0f\",\"signalStrength\":-91},"
                    "{\"macAddress\":\"6a:db:54:5a:79:6d\",\"signalStrength\":-48}]}");
}

Test(locating, passes_no_network_on_whose_owner_does_not_want_it) {
    add_point("b0:b2:dc:bd:43:0f", -91, "home_nomap");
    add_point("00:00:00:00:00:00", -91, NULL);
    add_point("ff:ff:ff:ff:ff:ff", -91, NULL);
    cr_expect(!surroundings_of(&message, &seen));
    add_point("6a:db:54:5a:79:6d", -48, "_nomapped");
    add_point("6a:db:54:5a:79:6d", -40, NULL);
    cr_assert(surroundings_of(&message, &seen));
    expect_question("{\"considerIp\":false,\"wifiAccessPoints\":[{\"macAddress\":\"6a:db:54:5a:79:6d\","
                    "\"signalStrength\":-48}]}");
}

Test(locating, tells_the_kind_of_a_cell) {
    list_cell(460, 0, 22022, 11010, -1);
    list_cell(460, 0, 22022, 1101099, -1);
    list_cell(460, 0, 22022, 11011, 88);
    list_cell(0, 0, 22022, 11012, -1);
    list_cell(460, 0, 65535, 11012, -1);
    list_cell(460, 0, 22022, 0, -1);
    cr_assert(surroundings_of(&message, &seen));
    cr_assert_eq(seen.cell_count, 3, "and none that cannot be");
    cr_expect_str_eq(seen.cells[0].radio, "gsm");
    cr_expect_str_eq(seen.cells[1].radio, "lte");
    cr_expect_str_eq(seen.cells[2].radio, "lte");
    message_set_text(&message, FIELD_GSM_NETWORK_TYPE, "WCDMA", 5);
    cr_assert(surroundings_of(&message, &seen));
    cr_expect_str_eq(seen.cells[0].radio, "wcdma");
}

Test(locating, does_not_ask_about_reports_with_coordinates_or_without_anything) {
    cr_expect(!surroundings_of(&message, &seen));
    add_point("b0:b2:dc:bd:43:0f", -91, NULL);
    message_set_integer(&message, FIELD_POSITION_LATITUDE, 1);
    message_set_integer(&message, FIELD_POSITION_LONGITUDE, 1);
    cr_expect(!surroundings_of(&message, &seen));
}

static uint64_t key_of(const char *url) {
    cr_assert(surroundings_of(&message, &seen));
    return surroundings_key(&seen, url);
}

Test(locating, knows_the_same_surroundings_again) {
    add_point("b0:b2:dc:bd:43:0f", -91, NULL);
    add_point("6a:db:54:5a:79:6d", -48, NULL);
    uint64_t key = key_of("http://a");
    cr_expect_neq(key_of("http://b"), key, "another service may know it better");
    message_reset(&message);
    add_point("6a:db:54:5a:79:6d", -70, "cafe");
    add_point("b0:b2:dc:bd:43:0f", -60, NULL);
    cr_expect_eq(key_of("http://a"), key);
    set_cell(460, 0, 22022, 11010);
    cr_expect_neq(key_of("http://a"), key);
    message_reset(&message);
    add_point("6a:db:54:5a:79:6d", -70, NULL);
    cr_expect_neq(key_of("http://a"), key);
}

// As many as there may be of everything.
Test(locating, has_bounds_for_what_a_device_sees) {
    for (int i = 0; i < SURROUNDINGS_POINTS_MAX + 8; i++) {
        char mac[18];
        snprintf(mac, sizeof mac, "02:00:00:00:%02x:01", (unsigned)i);
        add_point(mac, -50, NULL);
        list_cell(460, 1, 1, 1000 + i, 5);
    }
    cr_assert(surroundings_of(&message, &seen));
    cr_expect_eq(seen.point_count, SURROUNDINGS_POINTS_MAX);
    cr_expect_eq(seen.cell_count, SURROUNDINGS_CELLS_MAX);
    surroundings_key(&seen, "http://a");
}

Test(locating, keeps_a_message_in_little_memory) {
    static struct message other;
    static char before[MESSAGE_JSON_MAX], after[MESSAGE_JSON_MAX];
    add_point("b0:b2:dc:bd:43:0f", -91, "cafe");
    list_cell(460, 1, 1, 1000, 5);
    message_set_text(&message, FIELD_IDENT, "A", 1);
    size_t size = message_packed_size(&message);
    void *packed = malloc(size);
    message_pack(&message, packed);
    message_write_json(&message, before, sizeof before);
    message_unpack(packed, &other);
    free(packed);
    message_write_json(&other, after, sizeof after);
    cr_expect_str_eq(after, before);
    cr_expect_lt(size, 2500);
    message_set_integer(&other, FIELD_GSM_CELLS_PCID, 6);
    cr_expect_eq(other.count, message.count, "the last row can still be changed");
}

// --- answers ---

static const struct answer_case {
    long status;
    const char *body;
    enum answer_verdict verdict;
    const char *reason; // a part of it
} answers[] = {
    {200, "{\"location\":{\"lat\":-22.5,\"lng\":114.1},\"accuracy\":35.04}", ANSWER_FOUND, ""},
    {404, "{\"error\":{\"code\":404}}", ANSWER_NOT_FOUND, ""},
    {404, "<html>", ANSWER_FAILED, "HTTP 404 (geolocation.url)"},
    {404, "", ANSWER_FAILED, "HTTP 404 (geolocation.url)"},
    {404, "{}", ANSWER_FAILED, "HTTP 404 (geolocation.url)"},
    {404, "{\"error\":{\"code\":403}}", ANSWER_FAILED, "HTTP 404 (geolocation.url)"},
    {404, "{\"error\":404}", ANSWER_FAILED, "HTTP 404 (geolocation.url)"},
    {200, "{\"location\":{\"lat\":0,\"lng\":0},\"accuracy\":1}", ANSWER_NOT_FOUND, ""},
    {200, "{\"location\":{\"lat\":1,\"lng\":1},\"accuracy\":1,\"fallback\":\"ipf\"}", ANSWER_NOT_FOUND, ""},
    {200, "", ANSWER_FAILED, "not JSON"},
    {200, "[1]", ANSWER_FAILED, "not JSON"},
    {200, "<html>", ANSWER_FAILED, "not JSON"},
    {200, "{}", ANSWER_FAILED, "no place"},
    {200, "{\"location\":{\"lat\":\"1\",\"lng\":1},\"accuracy\":1}", ANSWER_FAILED, "no place"},
    {200, "{\"location\":{\"lat\":90.1,\"lng\":1},\"accuracy\":1}", ANSWER_FAILED, "no place"},
    {200, "{\"location\":{\"lat\":1,\"lng\":-180.1},\"accuracy\":1}", ANSWER_FAILED, "no place"},
    {200, "{\"location\":{\"lat\":1,\"lng\":1}}", ANSWER_FAILED, "no place"},
    {200, "{\"location\":{\"lat\":1,\"lng\":1},\"accuracy\":-1}", ANSWER_FAILED, "no place"},
    {302, "", ANSWER_FAILED, "HTTP 302 (redirects are not followed)"},
    {400, "", ANSWER_FAILED, "HTTP 400"},
    {403, "", ANSWER_REFUSED, "HTTP 403 (geolocation.key_file)"},
    {429, "", ANSWER_REFUSED, "HTTP 429 (too many requests)"},
    {503, "", ANSWER_FAILED, "HTTP 503"},
};

Test(locating, understands_answers) {
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        const struct answer_case *one = &answers[i];
        struct location location = {.latitude = 7};
        char reason[ANSWER_REASON_MAX] = "";
        enum answer_verdict verdict =
            answer_read(one->status, one->body, strlen(one->body), &seen, &location, reason);
        cr_expect_eq(verdict, one->verdict, "%ld %s", one->status, one->body);
        cr_expect(strstr(reason, one->reason) != NULL, "'%s' of %ld %s", reason, one->status, one->body);
        cr_expect_eq(location.latitude, verdict == ANSWER_FOUND ? -225000000 : 7);
        cr_expect_eq(location.accuracy, verdict == ANSWER_FOUND ? 351 : 0);
    }
}

static bool is_by_wifi(size_t points, size_t cells, const char *accuracy) {
    const struct surroundings asked = {.point_count = points, .cell_count = cells};
    struct location location = {.wifi = false};
    char body[96], reason[ANSWER_REASON_MAX];
    snprintf(body, sizeof body, "{\"location\":{\"lat\":1,\"lng\":1},\"accuracy\":%s}", accuracy);
    cr_assert_eq(answer_read(200, body, strlen(body), &asked, &location, reason), ANSWER_FOUND);
    return location.wifi;
}

Test(locating, says_what_an_answer_comes_from) {
    cr_expect(is_by_wifi(2, 0, "4000"));
    cr_expect(!is_by_wifi(0, 1, "10"));
    cr_expect(is_by_wifi(2, 1, "500"));
    cr_expect(!is_by_wifi(2, 1, "501"));
    cr_expect(is_by_wifi(2, 0, "1e300"));
}

// --- requests ---

struct heard {
    uv_loop_t *loop;
    char error[160];
    long status;
};

static void note_heard(void *context, const struct requests_result *result) {
    struct heard *heard = context;
    snprintf(heard->error, sizeof heard->error, "%s", result->error != NULL ? result->error : "");
    heard->status = result->status;
    uv_stop(heard->loop);
}

static void expect_answer(struct geo_service *service, const char *host) {
    uv_loop_t loop;
    struct heard heard = {.loop = &loop};
    char url[64];
    uv_loop_init(&loop);
    struct requests *requests = requests_new(&loop);
    snprintf(url, sizeof url, "http://%s:%d/", host, geo_service_port(service));
    cr_expect(requests_takes(url));
    requests_post(requests, url, NULL, "{}", 15000, note_heard, &heard);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_expect(heard.status == 200, "%s: HTTP %ld, '%s'", url, heard.status, heard.error);
    requests_stop(requests);
    uv_run(&loop, UV_RUN_DEFAULT);
    requests_free(requests);
    cr_expect_eq(uv_loop_close(&loop), 0);
}

Test(locating, asks_at_a_name_and_at_an_address) {
    struct geo_service *service = geo_service_start(NULL, NULL);
    expect_answer(service, "localhost");
    expect_answer(service, "127.0.0.1");
    geo_service_stop(service);
}

Test(locating, asks_at_an_address_of_ipv6) {
    if (!rig_has_ipv6())
        cr_skip_test("this machine has no IPv6");
    struct geo_service *service = geo_service_start_on_ipv6();
    expect_answer(service, "[::1]");
    expect_answer(service, "[0:0::1]");
    geo_service_stop(service);
}

// --- pauses ---

Test(locating, leaves_a_service_alone_that_fails) {
    struct breaker breaker = {.failures = 0};
    cr_expect_eq(breaker_failed(&breaker, 1000, false, 0, 0), 0);
    cr_expect_eq(breaker_failed(&breaker, 1000, false, 0, 0), 0);
    cr_expect(!breaker_answered(&breaker) && breaker.failures == 0, "in a row");
    for (int i = 0; i < 2; i++)
        cr_expect(breaker_failed(&breaker, 1000, false, 0, 0) == 0 && breaker_allows(&breaker, 1000));
    cr_expect_eq(breaker_failed(&breaker, 1000, false, 0, 0), BREAKER_PAUSE_MIN);
    cr_expect(!breaker_allows(&breaker, 1999));
    cr_expect_eq(breaker_failed(&breaker, 1500, false, 0, 0), 0, "that was asked before");
    cr_expect(!breaker_answered(&breaker) && !breaker_allows(&breaker, 1999), "and so was that");
    cr_assert(breaker_allows(&breaker, 2000));
    breaker_asked(&breaker);
    cr_expect(!breaker_allows(&breaker, 9000), "one tries it");
    cr_expect_eq(breaker_failed(&breaker, 3000, false, 0, 0), 2 * BREAKER_PAUSE_MIN);
    cr_assert(breaker_allows(&breaker, 5000));
    breaker_asked(&breaker);
    cr_expect(breaker_answered(&breaker));
    cr_expect(breaker_allows(&breaker, 5000));
}

Test(locating, leaves_a_service_alone_that_asks_for_it) {
    struct breaker breaker = {.failures = 0};
    cr_expect_eq(breaker_failed(&breaker, 0, true, 0, 0), BREAKER_PAUSE_MIN, "at once");
    breaker = (struct breaker){.failures = 0};
    cr_expect_eq(breaker_failed(&breaker, 0, true, 30000, 0), 30000);
    breaker = (struct breaker){.failures = 0};
    cr_expect_eq(breaker_failed(&breaker, 0, true, UINT64_MAX, 0), BREAKER_ASKED_MAX);
    breaker = (struct breaker){.failures = 0};
    for (uint64_t now = 0, i = 0; i < 20; i++) {
        breaker_asked(&breaker);
        unsigned pause = breaker_failed(&breaker, now, true, 0, 4000000000U);
        cr_expect(pause > 0 && pause < BREAKER_PAUSE_MAX / 4 * 5);
        now += pause;
        cr_assert(breaker_allows(&breaker, now));
    }
    cr_expect_eq(breaker.pause, BREAKER_PAUSE_MAX);
}

// --- what is remembered ---

static struct carrier broker;

static void open_store(void) {
    carrier_open(&broker);
}

static void close_store(void) {
    carrier_close(&broker);
}

TestSuite(places, .init = open_store, .fini = close_store);

static const struct location here = {
    .latitude = -225431234, .longitude = 1140579500, .accuracy = 350, .wifi = true};

static void on_written(void *context, bool ok) {
    cr_expect(ok);
    *(bool *)context = true;
}

// As another start of the gateway finds them.
static struct places *start_again(struct places *places, size_t most) {
    bool written = false;
    places_stop(places);
    store_when_written(broker.store, on_written, &written);
    carrier_run_until(&broker, &written);
    uv_run(&broker.loop, UV_RUN_NOWAIT);
    places_free(places);
    return places_new(&broker.loop, broker.store, most);
}

static void end(struct places *places) {
    places_stop(places);
    uv_run(&broker.loop, UV_RUN_NOWAIT);
    places_free(places);
}

Test(places, hold_for_a_while) {
    struct places *places = places_new(&broker.loop, broker.store, 10);
    struct location location;
    cr_expect_eq(places_find(places, 1, 1000, &location), PLACES_UNKNOWN);
    places_remember(places, 1, 1000, &here);
    places_remember(places, 2, 1000, NULL);
    cr_assert_eq(places_find(places, 1, 1000 + 30 * 86400 - 1, &location), PLACES_FOUND);
    cr_expect(memcmp(&location, &here, sizeof here) == 0);
    cr_expect_eq(places_find(places, 1, 1000 + 30 * 86400, &location), PLACES_UNKNOWN);
    cr_expect_eq(places_find(places, 2, 1000 + 6 * 3600 - 1, &location), PLACES_NOWHERE);
    cr_expect_eq(places_find(places, 2, 1000 + 6 * 3600, &location), PLACES_UNKNOWN);
    places_remember(places, 2, 1000 + 6 * 3600, &here);
    cr_expect_eq(places_find(places, 2, 1000 + 7 * 3600, &location), PLACES_FOUND);
    end(places);
}

Test(places, outlive_the_gateway) {
    struct places *places = places_new(&broker.loop, broker.store, 10);
    struct location location;
    places_remember(places, 1, 1000, &here);
    places_remember(places, UINT64_MAX, 2000, NULL);
    places = start_again(places, 10);
    cr_expect_eq(places_count(places), 2);
    cr_assert_eq(places_find(places, 1, 3000, &location), PLACES_FOUND);
    cr_expect(location.latitude == here.latitude && location.longitude == here.longitude &&
              location.accuracy == here.accuracy && location.wifi);
    cr_expect_eq(places_find(places, UINT64_MAX, 3000, &location), PLACES_NOWHERE);
    end(places);
}

Test(places, have_a_bound) {
    struct places *places = places_new(&broker.loop, broker.store, 3);
    struct location location;
    for (uint64_t key = 1; key <= 3; key++)
        places_remember(places, key, 1000 + (int64_t)key, &here);
    cr_expect_eq(places_find(places, 1, 2000, &location), PLACES_FOUND);
    places_remember(places, 4, 2001, &here);
    cr_expect_eq(places_count(places), 3);
    cr_expect_eq(places_find(places, 2, 2002, &location), PLACES_UNKNOWN, "it was used longest ago");
    places = start_again(places, 3);
    cr_expect_eq(places_count(places), 3, "what was dropped is not in the store");
    cr_expect_eq(places_find(places, 1, 2002, &location), PLACES_FOUND);
    places_bound(places, 1);
    cr_expect_eq(places_find(places, 4, 2002, &location), PLACES_UNKNOWN);
    cr_expect_eq(places_find(places, 1, 2002, &location), PLACES_FOUND);
    end(places);
}

static void expect_none(struct places *places) {
    struct location location;
    places_remember(places, 9, 1000, &here);
    cr_expect_eq(places_find(places, 9, 1000, &location), PLACES_UNKNOWN);
    cr_expect_eq(places_count(places), 0);
}

Test(places, are_forgotten_by_who_wants_none) {
    struct places *places = places_new(&broker.loop, broker.store, 3);
    places_remember(places, 1, 1000, &here);
    places = start_again(places, 3);
    places_bound(places, 0);
    expect_none(places);
    places = start_again(places, 3);
    cr_expect_eq(places_count(places), 0, "nor are they in the store");
    end(places);
}

#define MANY 1000 // more than go at once

static struct places *with_many(void) {
    struct places *places = places_new(&broker.loop, broker.store, MANY);
    for (uint64_t key = 1; key <= MANY; key++)
        places_remember(places, key, 1000 + (int64_t)key, &here);
    return start_again(places, MANY);
}

static void on_tick(uv_timer_t *tick) {
}

static void run_until_count(struct places *places, size_t count) {
    uint64_t end = uv_hrtime() + 15 * (uint64_t)1000000000;
    uv_timer_t tick;
    uv_timer_init(&broker.loop, &tick);
    uv_timer_start(&tick, on_tick, 10, 10);
    while (places_count(places) > count && uv_hrtime() < end)
        uv_run(&broker.loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&tick, NULL);
    uv_run(&broker.loop, UV_RUN_NOWAIT);
    cr_assert_eq(places_count(places), count);
}

// Nothing else gets on while they do.
Test(places, go_a_few_at_a_time) {
    struct places *places = with_many();
    struct location location;
    places_bound(places, 10);
    cr_expect(places_count(places) >= MANY / 2, "%zu go at once", MANY - places_count(places));
    run_until_count(places, 10);
    cr_expect_eq(places_find(places, MANY, 5000, &location), PLACES_FOUND, "it was used last");
    places = start_again(places, MANY);
    cr_expect_eq(places_count(places), 10);
    places = start_again(places, 3);
    run_until_count(places, 3);
    end(places);
}

// Also by who starts without any; what comes later stays.
Test(places, go_all_together_when_none_are_wanted) {
    struct places *places = with_many();
    size_t before = allocations_count();
    places_bound(places, 0);
    cr_expect_lt(allocations_count() - before, MANY / 2, "each by itself");
    cr_expect_eq(places_count(places), 0);
    places_bound(places, 5);
    places_remember(places, 7, 3000, &here);
    places = start_again(places, 5);
    cr_expect_eq(places_count(places), 1);
    places = start_again(places, 0);
    cr_expect_eq(places_count(places), 0);
    places = start_again(places, 5);
    cr_expect_eq(places_count(places), 0);
    end(places);
}
