// OwnTracks: where each device is, as https://owntracks.org/booklet/tech/json describes it.
#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/state.h"

TestSuite(owntracks, .fini = rig_clean);
TestSuite(owntracks_3_1_1, .fini = rig_clean);

#define VAN_IS  "/owntracks/trackbus/" VAN
#define CARD    VAN_IS "/info"
#define ENABLED "'owntracks':{'enabled':true}"
#define AT(minute, latitude, battery)                                                                        \
    "R0;10+1901091200" minute "+" latitude "+114.02922+2.54+69+2+" battery "+1"
#define FILED "'devices_file':'%s/devices.json'"

// Its pages "JSON": the elements of a location and of a card that are used here, and their types.
static const struct {
    const char *key;
    json_type type;
} documented[] = {
    {"_type", JSON_STRING}, {"acc", JSON_INTEGER},        {"alt", JSON_INTEGER},  {"batt", JSON_INTEGER},
    {"cog", JSON_INTEGER},  {"created_at", JSON_INTEGER}, {"lat", JSON_REAL},     {"lon", JSON_REAL},
    {"name", JSON_STRING},  {"tid", JSON_STRING},         {"topic", JSON_STRING}, {"tst", JSON_INTEGER},
    {"vel", JSON_INTEGER},
};

static bool is_documented(const char *key, const json_t *value) {
    for (size_t i = 0; i < sizeof documented / sizeof documented[0]; i++)
        if (strcmp(documented[i].key, key) == 0)
            return json_typeof(value) == documented[i].type;
    return false;
}

static void expect_location(struct rig *rig, const char *topic, const char *subset, const char *keys) {
    json_t *json = rig_expect_standing_json(rig, topic, subset), *value;
    const char *key;
    expect_keys(json, keys);
    json_object_foreach(json, key, value) cr_assert(is_documented(key, value), "%s is none of theirs", key);
    json_decref(json);
}

#define KEYS "_type batt cog created_at lat lon tid topic tst vel"

// The battery is at 3.744 V of 3.5 to 4.2.
#define NOON                                                                                                 \
    "{'_type':'location','tid':'23','tst':1547035200,'lat':22.63827,'lon':114.02922,'vel':3,'cog':69,"       \
    "'batt':32,'topic':'owntracks/trackbus/" VAN "'}"

static void expect_created_now(struct rig *rig) {
    json_t *json = rig_expect_standing_json(rig, VAN_IS, "{'_type':'location'}");
    long created = (long)json_integer_value(member(json, "created_at"));
    cr_assert(labs(created - (long)time(NULL)) < 60, "it was created at %ld", created);
    json_decref(json);
}

// Whatever is done with telemetry. A late report moves nothing back, and one without a place nothing at all.
STORY(owntracks, shows_where_a_device_is) {
    struct rig *rig = rig_up("{'devices':[{'ident':'" VAN "','id':42,'name':'Van 1'}]," ENABLED
                             ",'telemetry':'off','telemetry_interval':0}");
    int device = rig_tcp(rig);
    json_decref(rig_expect_standing_json(rig, CARD, "{'_type':'card','name':'Van 1','tid':'23'}"));
    say(rig, device, VAN, AT("00", "22.63827", "3744"));
    expect_location(rig, VAN_IS, NOON, KEYS);
    expect_created_now(rig);
    say(rig, device, VAN, "R0;10+190109115900+21+114.02922+2.14+69+2+3744+1"); // a minute before
    say(rig, device, VAN, "R1;190109120100+6a:db:54:5a:79:6d,-91+5+3831+0");
    close(device);
    rig_expect(rig, "state/gw/devices/42/connected", "false"); // all of it has come
    json_decref(rig_expect_standing_json(rig, VAN_IS, NOON));
    rig_broker_kill(rig);
    rig_broker_start(rig, NULL); // which has lost all
    json_decref(rig_expect_standing_json(rig, VAN_IS, NOON));
    json_decref(rig_expect_standing_json(rig, CARD, "{'name':'Van 1'}"));
    rig_finish(rig);
}

static void reload(struct rig *rig, const char *devices) {
    rig_write_json(rig, "devices.json", devices);
    rig_gateway_signal(rig, SIGHUP);
}

// Under its prefix; with another id the location stays, and with the device it goes.
static size_t count_at(struct rig *rig, const char *latitude) {
    const struct rig_message *message;
    size_t count = 0, next = 0;
    while ((message = rig_next(rig, VAN_IS, &next)) != NULL)
        count += strstr(message->payload, latitude) != NULL;
    return count;
}

#define ALONE   "{'telemetry':'off'," ENABLED "}"
#define BESIDES "{'telemetry':'off'," ENABLED ",'mqtt':{'client_id':'second'},'commands':{'intake':false}}"

// A tracker that kept reports, and went to another gateway, or came to one that was restarted.
Test(owntracks, does_not_go_back) {
    struct rig *rig = rig_up(ALONE), *second = rig_beside(rig);
    rig_gateway_start(second, BESIDES);
    rig_expect(rig, "state/gw/instances/second", "{'state':'online'}");
    int device = rig_tcp(rig);
    say(rig, device, VAN, AT("05", "22.55555", "3744"));
    json_decref(rig_expect_standing_json(rig, VAN_IS, "{'lat':22.55555}"));
    close(device);
    device = rig_tcp(second);
    say(rig, device, VAN, AT("01", "22.11111", "3744"));
    say(rig, device, VAN, AT("06", "22.66666", "3744"));
    json_decref(rig_expect_standing_json(rig, VAN_IS, "{'lat':22.66666}"));
    cr_expect_eq(count_at(rig, "22.11111"), 0, "it went back at the second gateway");
    rig_gateway_stop(second);
    rig_gateway_start(second, BESIDES);
    device = rig_tcp(second);
    say(rig, device, VAN, AT("03", "22.33333", "3744"));
    say(rig, device, VAN, AT("07", "22.77777", "3744"));
    json_decref(rig_expect_standing_json(rig, VAN_IS, "{'lat':22.77777}"));
    cr_expect_eq(count_at(rig, "22.33333"), 0, "it went back after the restart");
    rig_finish(rig);
}

Test(owntracks, follows_the_registry) {
    char changes[200];
    struct rig *rig = rig_with_broker(NULL);
    rig_write_json(rig, "devices.json", "[{'ident':'" VAN "','id':42,'name':'Van 1'}]");
    snprintf(changes, sizeof changes,
             "{'owntracks':{'enabled':true,'prefix':'a/b'},'unknown_devices':'reject'," FILED "}",
             rig->directory);
    rig_gateway_start(rig, changes);
    say(rig, rig_tcp(rig), VAN, AT("00", "22.63827", "3500"));
    json_decref(
        rig_expect_standing_json(rig, "/a/b/trackbus/" VAN, "{'topic':'a/b/trackbus/" VAN "','batt':0}"));
    json_decref(rig_expect_standing_json(rig, "/a/b/trackbus/" VAN "/info", "{'name':'Van 1'}"));
    reload(rig, "[{'ident':'" VAN "','id':43,'name':'Van 2'}]");
    json_decref(rig_expect_standing_json(rig, "/a/b/trackbus/" VAN "/info", "{'name':'Van 2'}"));
    rig_expect_standing(rig, "state/gw/devices/42", NULL); // its old id is gone
    json_decref(rig_expect_standing_json(rig, "/a/b/trackbus/" VAN, "{'lat':22.63827}"));
    reload(rig, "[]");
    rig_expect_none_retained(rig, "/a/b/#");
    rig_finish(rig);
}

// Removed while nobody was there; and off, it says nothing.
Test(owntracks, of_a_device_that_was_removed_while_the_gateway_was_away) {
    struct rig *rig = rig_up("{'devices':[{'ident':'" VAN "','id':42}]," ENABLED "}");
    say(rig, rig_tcp(rig), VAN, AT("00", "22.63827", "4300"));
    json_decref(rig_expect_standing_json(rig, VAN_IS, "{'batt':100}"));
    stop_and_hear(rig);
    rig_gateway_start(rig, "{" ENABLED ",'unknown_devices':'reject'}");
    rig_expect_none_retained(rig, "/owntracks/#");
    stop_and_hear(rig);
    rig_gateway_start(rig, NULL);
    say(rig, rig_tcp(rig), CAR, AT("00", "22.63827", "3744"));
    rig_expect(rig, CAR_STATE "/telemetry/position", NULL);
    cr_assert(rig_count_retained(rig, "/owntracks/#") == 0);
    rig_finish(rig);
}
