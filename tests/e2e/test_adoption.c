// The registry in the broker: devices that are named, changed and removed while gateways run.
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/e2e/state.h"

TestSuite(adoption, .init = rig_share_key, .fini = rig_clean, .timeout = 120);
TestSuite(adoption_3_1_1, .init = rig_share_key, .fini = rig_clean, .timeout = 120);

#define ENTRY(ident)   "registry/gw/devices/" ident
#define STATE(id)      "state/gw/devices/" #id
#define PERSISTS       "persistence true\nautosave_interval 3600\n"
#define REPORT         "R0;10+190109120000+22.63827+114.02922+2.14+69+2+3744+113"
#define HOME_ASSISTANT "/homeassistant/device_tracker/trackbus_" VAN "/position/config"
#define REPORT_LATER   "R0;10+190109120100+22.63827+114.02922+2.14+69+2+3744+114"

static void expect_device(struct rig *rig, const char *topic, const char *subset, const char *connected) {
    char below[96];
    json_decref(rig_expect_standing_json(rig, topic, subset));
    snprintf(below, sizeof below, "%s/connected", topic);
    rig_expect_standing(rig, below, connected);
}

static void expect_gone(struct rig *rig, const char *state) {
    char filter[96];
    rig_expect_standing(rig, state, NULL);
    snprintf(filter, sizeof filter, "%s/#", state);
    rig_expect_none_retained(rig, filter);
}

// As people do it.
static void mosquitto_pub(struct rig *rig, const char *topic, const char *payload) {
    char call[512];
    snprintf(call, sizeof call, "mosquitto_pub -p %d -r -t trackbus/%s %s%s%s", rig->broker_port, topic,
             *payload != '\0' ? "-m '" : "-n", payload, *payload != '\0' ? "'" : "");
    cr_assert(system(call) == 0, "%s", call);
}

// --- one device ---

STORY(adoption, a_device_is_added_changed_and_removed) {
    struct rig *rig = rig_up("{'unknown_devices':'reject'}");
    mosquitto_pub(rig, ENTRY(VAN), "{\"name\":\"Van 1\",\"id\":42,\"type_id\":825}");
    expect_device(rig, STATE(42), "{'id':42,'name':'Van 1','ident':'" VAN "','device_type_id':825}", "false");
    rig_expect(rig, "log/gw/devices/42/created",
               "{'event_code':1,'ident':'" VAN "','name':'Van 1','item_data':{'id':42,'name':'Van 1',"
               "'device_type_id':825,'configuration':{'ident':'" VAN "'}},'new':{'id':42,'name':'Van 1',"
               "'device_type_id':825,'configuration':{'ident':'" VAN "'}}}");
    int device = rig_tcp(rig);
    say(rig, device, VAN, REPORT);
    rig_expect(rig, "message/gw/devices/42", "{'device.name':'Van 1','device.type.id':825}");
    mosquitto_pub(rig, ENTRY(VAN), "{\"name\":\"Van 2\",\"id\":42}");
    expect_device(rig, STATE(42), "{'id':42,'name':'Van 2','device_type_id':0}", "true");
    rig_expect(rig, "log/gw/devices/42/updated",
               "{'name':'Van 2','item_data':{'id':42,'name':'Van 2'},'new':{'id':42,'name':'Van 2'}}");
    say(rig, device, VAN, REPORT_LATER);
    rig_expect(rig, "message/gw/devices/42", "{'device.name':'Van 2','device.type.id':0}");
    mosquitto_pub(rig, ENTRY(VAN), "{\"id\":43}");
    expect_device(rig, STATE(43), "{'id':43,'name':'" VAN "'}", "true");
    rig_expect_standing(rig, STATE(43) "/telemetry/battery.voltage", "3.744");
    expect_gone(rig, STATE(42));
    rig_publish(rig, "command/gw/devices/" VAN, "[{\"name\":\"rconf\"},{\"name\":\"rconf\"}]");
    int64_t id = expect_step(rig, "43", "rconf", "sent", NULL);
    mosquitto_pub(rig, ENTRY(VAN), "");
    json_t *deleted = json_of(rig_expect(rig, "log/gw/devices/43/deleted",
                                         "{'event_code':3,'ident':'" VAN "','item_data':{'id':43},"
                                         "'old':{'id':43}}"));
    cr_expect_null(json_object_get(deleted, "new")); // who finds it takes the device for one that is there
    json_decref(deleted);
    device_expect(device, "rconf,1#");
    device_expect_closed(device);
    expect_entry(rig, "43", id, NULL);
    rig_expect(rig, "log/gw/devices/43/commands-queue/rconf/canceled", NULL);
    rig_expect(rig, "log/gw/devices/43/commands-queue/rconf/canceled", NULL);
    expect_gone(rig, STATE(43));
    rig_finish(rig);
}

// With the id that it had as a stranger.
STORY(adoption, a_stranger_is_adopted_and_let_go) {
    struct rig *rig = rig_up("{'home_assistant':{'enabled':true}}");
    int device = rig_tcp(rig);
    say(rig, device, VAN, REPORT);
    expect_device(rig, VAN_STATE, "{'name':'" VAN "'}", "true");
    rig_expect(rig, "log/gw/devices/" VAN "/created", NULL);
    rig_expect_none_retained(rig, "/homeassistant/+/+/+/config");
    rig_publish_retained(rig, ENTRY(VAN), "{\"name\":\"Van 1\"}");
    rig_expect(rig, "log/gw/devices/" VAN "/created", "{'name':'Van 1'}");
    expect_device(rig, VAN_STATE, "{'id':" VAN ",'name':'Van 1'}", "true");
    rig_expect_standing(rig, VAN_STATE "/telemetry/device.name", "\"Van 1\"");
    json_decref(rig_expect_standing_json(rig, HOME_ASSISTANT, "{'device':{'name':'Van 1'}}"));
    rig_publish_retained(rig, ENTRY(VAN), "{\"name\":\"Van 2\"}");
    json_decref(rig_expect_standing_json(rig, HOME_ASSISTANT, "{'device':{'name':'Van 2'}}"));
    rig_publish_retained(rig, ENTRY(VAN), "");
    rig_expect(rig, "log/gw/devices/" VAN "/deleted", NULL);
    rig_expect_none_retained(rig, "/homeassistant/+/+/+/config");
    expect_device(rig, VAN_STATE, "{'name':'" VAN "'}", "true");
    rig_expect_none_retained(rig, VAN_STATE "/telemetry/#"); // it has not reported since
    say(rig, device, VAN, REPORT_LATER);
    rig_expect_standing(rig, VAN_STATE "/telemetry/device.name", "\"" VAN "\"");
    rig_finish(rig);
}

// --- what is refused ---

static void expect_refused(struct rig *rig, const char *topic, const char *payload, const char *text) {
    char subset[256];
    rig_publish_retained(rig, topic, payload);
    snprintf(subset, sizeof subset, "{'event_code':4,'error_text':'%s'}", text);
    rig_expect(rig, "log/gw/registry/error", subset);
}

Test(adoption, what_is_wrong_is_refused_and_what_stood_before_stays) {
    struct rig *rig = rig_up("{'devices':[{'ident':'" LORRY "','id':7,'name':'Lorry'}]}");
    static const struct {
        const char *payload, *text;
    } wrong[] = {
        {"{\"name\":7}", "$.name: is 7, expected string"},
        {"{\"name\":\"\"}", "$.name: has 0 characters, expected at least 1"},
        {"{\"id\":-1}", "$.id: is -1, expected 0 to 9007199254740991"},
        {"{\"ident\":\"" VAN "\"}", "$.ident: is not known here, expected id, name or type_id"},
        {"[]", "$: is [], expected object"},
        {"{\"id\":7}",
         "device " VAN " has the id 7, which device " LORRY " of the configuration already has"},
        {"{\"id\":43}", "device " VAN " has the id 43, which device " CAR " already has"},
    };
    rig_publish_retained(rig, ENTRY(CAR), "{\"id\":43}");
    expect_device(rig, STATE(43), "{'ident':'" CAR "'}", "false");
    rig_publish_retained(rig, ENTRY(VAN), "{\"id\":42,\"name\":\"Van 1\"}");
    expect_device(rig, STATE(42), "{'name':'Van 1'}", "false");
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        expect_refused(rig, ENTRY(VAN), wrong[i].payload, wrong[i].text);
    rig_publish_retained(rig, ENTRY(VAN), "no JSON");
    json_t *entry = json_of(rig_expect(rig, "log/gw/registry/error", "{'payload':'no JSON'}"));
    cr_assert(strstr(json_string_value(member(entry, "error_text")), "expected JSON") != NULL);
    json_decref(entry);
    rig_expect_standing(rig, ENTRY(VAN), "{\"id\":42,\"name\":\"Van 1\"}"); // given back
    expect_device(rig, STATE(42), "{'name':'Van 1'}", "false");
    expect_refused(
        rig, ENTRY("a ship"), "{}",
        "$.ident: is \\\"a ship\\\", expected: what the device calls itself, an IMEI for instance: "
        "1 to 32 letters, digits, dots, dashes, underscores");
    expect_refused(rig, ENTRY("boat"), "{\"id\":43}",
                   "device boat has the id 43, which device " CAR " already has");
    rig_expect_standing(rig, ENTRY("boat"), NULL); // of two with one id not both stay
    expect_refused(rig, ENTRY("boat"), "{\"id\":7}",
                   "the configuration gives its id, 7, to " LORRY
                   ", and wins: this counts once it does so no longer");
    rig_finish(rig);
}

Test(adoption, the_configuration_wins) {
    struct rig *rig = rig_with_broker(NULL);
    rig_write_json(rig, "devices.json", "[{'ident':'" VAN "','id':42,'name':'Van 1'}]");
    char changes[160];
    snprintf(changes, sizeof changes, "{'devices_file':'%s/devices.json'}", rig->directory);
    rig_gateway_start(rig, changes);
    rig_expect_state(rig);
    rig_publish_retained(rig, ENTRY(VAN), "{\"id\":43,\"name\":\"Van 2\"}");
    rig_expect_log(rig, "the configuration wins");
    rig_expect(
        rig, "log/gw/registry/error",
        "{'error_text':'the configuration has this ident, and wins: this counts once it has it no longer'}");
    expect_device(rig, STATE(42), "{'name':'Van 1'}", "false");
    rig_write_json(rig, "devices.json", "[]"); // and says nothing any more
    rig_gateway_signal(rig, SIGHUP);
    expect_device(rig, STATE(43), "{'name':'Van 2','ident':'" VAN "'}", "false");
    expect_gone(rig, STATE(42));
    rig_write_json(rig, "devices.json", "[{'ident':'" CAR "','id':43,'name':'Car'}]");
    rig_gateway_signal(rig, SIGHUP); // its id is another's
    expect_device(rig, STATE(43), "{'name':'Car','ident':'" CAR "'}", "false");
    rig_expect_log(rig, "is not in force");
    rig_write_json(rig, "devices.json", "[]");
    rig_gateway_signal(rig, SIGHUP);
    expect_device(rig, STATE(43), "{'name':'Van 2','ident':'" VAN "'}", "false");
    rig_finish(rig);
}

// A configuration that is read again says nothing of those that the broker has.
Test(adoption, a_reload_leaves_adopted_devices_as_they_are) {
    struct rig *rig = rig_with_broker(NULL);
    char changes[160];
    rig_write_json(rig, "devices.json", "[{'ident':'" CAR "','id':43,'name':'Car 1'}]");
    snprintf(changes, sizeof changes, "{'unknown_devices':'reject','devices_file':'%s/devices.json'}",
             rig->directory);
    rig_gateway_start(rig, changes);
    rig_publish_retained(rig, ENTRY(VAN), "{\"id\":42,\"name\":\"Van 1\"}");
    expect_device(rig, STATE(42), "{'name':'Van 1'}", "false");
    int device = rig_tcp(rig);
    say(rig, device, VAN, REPORT);
    rig_expect(rig, "message/gw/devices/42", "{'device.name':'Van 1'}");
    rig_write_json(rig, "devices.json",
                   "[{'ident':'" CAR "','id':43,'name':'Car 2'},{'ident':'" LORRY "','id':44}]");
    rig_gateway_signal(rig, SIGHUP);
    expect_device(rig, STATE(43), "{'name':'Car 2'}", "false");
    expect_device(rig, STATE(44), "{'ident':'" LORRY "'}", "false");
    say(rig, device, VAN, REPORT_LATER);
    rig_expect(rig, "message/gw/devices/42", "{'device.name':'Van 1'}");
    expect_device(rig, STATE(42), "{'name':'Van 1'}", "true");
    rig_publish_retained(rig, ENTRY(VAN), "{\"id\":42,\"name\":\"Van 2\"}"); // and goes on to follow it
    expect_device(rig, STATE(42), "{'name':'Van 2'}", "true");
    cr_expect_eq(
        rig_count(rig, "log/gw/devices/42/deleted") + rig_count(rig, "log/gw/devices/42/disconnected"), 0);
    rig_finish(rig);
}

// --- what is kept ---

// Without the broker, which has then lost all.
// --- very many ---

#define SHORT_QUEUE "max_inflight_messages 20\nmax_queued_messages 1000\n" // as Mosquitto's are by default

struct crowd {
    struct rig *rig;
    size_t count;
};

static void list_many(struct rig *rig, int first, int last) {
    char topic[64];
    for (int i = first; i <= last; i++) {
        snprintf(topic, sizeof topic, ENTRY("van-%d"), i);
        rig_publish_retained(rig, topic, "{}");
    }
}

// Asking costs the broker more than the gateway's work does.
static bool are_there(void *context) {
    const struct crowd *crowd = context;
    usleep(200000);
    return rig_count_retained(crowd->rig, "state/gw/devices/+") == crowd->count;
}

static void expect_many(struct rig *rig, size_t count) {
    struct crowd crowd = {rig, count};
    bool there = rig_wait(are_there, &crowd, 30000);
    cr_assert(there, "%zu devices", rig_count_retained(rig, "state/gw/devices/+"));
}

// Also those that are told, changed and removed while the gateway does not read, or is not there.
Test(adoption, a_broker_with_a_short_queue_tells_of_all) {
    struct rig *rig = rig_with_broker(SHORT_QUEUE);
    list_many(rig, 1, 1200);
    rig_gateway_start(rig, "{'telemetry':'off'}");
    expect_many(rig, 1200);
    rig_gateway_signal(rig, SIGSTOP);
    list_many(rig, 1201, 2300);
    rig_gateway_signal(rig, SIGCONT);
    expect_many(rig, 2300);
    rig_gateway_stop(rig);
    rig_publish_retained(rig, ENTRY("van-7"), "");
    rig_gateway_start(rig, "{'telemetry':'off'}");
    expect_many(rig, 2299);
    rig_finish(rig);
}

STORY(adoption, a_gateway_without_its_broker_knows_its_devices) {
    struct rig *rig = rig_up("{'unknown_devices':'reject'}");
    rig_publish_retained(rig, ENTRY(VAN), "{\"id\":42,\"name\":\"Van 1\"}");
    rig_publish_retained(rig, ENTRY(CAR), "{\"name\":\"Car\"}");
    expect_device(rig, STATE(42), "{'name':'Van 1'}", "false");
    expect_device(rig, CAR_STATE, "{'name':'Car'}", "false");
    rig_publish_retained(rig, ENTRY(CAR), "");
    expect_gone(rig, CAR_STATE);
    rig_gateway_kill(rig);
    rig_broker_kill(rig);
    rig_broker_wipe(rig);
    rig_gateway_start(rig, "{'unknown_devices':'reject'}");
    int car = rig_tcp(rig), van = rig_tcp(rig);
    device_send(car, report(CAR, 1));
    device_expect_closed(car);
    device_send(van, report(VAN, 1));
    rig_broker_start(rig, NULL);
    rig_expect(rig, "message/gw/devices/42", "{'device.name':'Van 1'}");
    rig_expect_standing(rig, ENTRY(VAN), "{\"id\":42,\"name\":\"Van 1\"}");
    expect_device(rig, STATE(42), "{'name':'Van 1'}", "true");
    rig_expect_standing(rig, ENTRY(CAR), NULL);
    rig_finish(rig);
}

STORY(adoption, what_changes_while_the_gateway_is_away_is_taken) {
    struct rig *rig = rig_up(NULL);
    rig_publish_retained(rig, ENTRY(VAN), "{\"id\":42,\"name\":\"Van 1\"}");
    rig_publish_retained(rig, ENTRY(CAR), "{\"id\":43,\"name\":\"Car 1\"}");
    expect_device(rig, STATE(42), "{'name':'Van 1'}", "false");
    expect_device(rig, STATE(43), "{'name':'Car 1'}", "false");
    rig_publish(rig, "command/gw/devices/42", "rconf,1#");
    expect_step(rig, "42", "custom", "queued", NULL);
    rig_gateway_kill(rig);
    rig_publish_retained(rig, ENTRY(VAN), "");
    rig_publish_retained(rig, ENTRY(CAR), "{\"id\":43,\"name\":\"Car 2\"}");
    rig_publish_retained(rig, ENTRY(LORRY), "{\"id\":44}");
    rig_gateway_start(rig, NULL);
    expect_device(rig, STATE(43), "{'name':'Car 2'}", "false");
    expect_device(rig, STATE(44), "{'ident':'" LORRY "'}", "false");
    rig_expect(rig, "log/gw/devices/42/deleted", NULL);
    expect_step(rig, "42", "custom", "canceled", NULL);
    expect_gone(rig, STATE(42));
    rig_expect_standing(rig, ENTRY(VAN), NULL);
    rig_finish(rig);
}

// The number that says how much the broker has.
static long generation_of(struct rig *rig) {
    json_t *retained = rig_retained(rig, INSTANCE "/generation"), *value;
    const char *topic;
    long number = 0;
    json_object_foreach(retained, topic, value) number = strtol(json_string_value(value), NULL, 10);
    json_decref(retained);
    return number;
}

struct growing {
    struct rig *rig;
    long above;
};

static bool has_grown(void *context) {
    const struct growing *growing = context;
    return generation_of(growing->rig) > growing->above;
}

static void expect_to_grow(struct rig *rig, long above) {
    struct growing growing = {rig, above};
    cr_assert(rig_wait(has_grown, &growing, RIG_DEADLINE), "the generation stays at %ld", above);
}

// The broker has the generation of all that has come until now: that of a device which comes later is another.
static void expect_all_in_a_generation(struct rig *rig) {
    rig_publish_retained(rig, ENTRY("later"), "{}");
    rig_expect(rig, "log/gw/devices/+/created", "{'ident':'later'}");
    expect_to_grow(rig, generation_of(rig));
}

STORY(adoption, a_broker_that_falls_back_is_given_what_it_lost) {
    struct rig *rig = rig_with_broker(PERSISTS);
    rig_gateway_start(rig, NULL);
    rig_publish_retained(rig, ENTRY(CAR), "{\"id\":43,\"name\":\"Car 1\"}");
    rig_publish_retained(rig, ENTRY(LORRY), "{\"id\":44}");
    expect_device(rig, STATE(43), "{'name':'Car 1'}", "false");
    expect_device(rig, STATE(44), "{'ident':'" LORRY "'}", "false");
    expect_to_grow(rig, 0);
    rig_broker_save(rig);
    rig_publish_retained(rig, ENTRY(VAN), "{\"id\":42,\"name\":\"Van 1\"}");
    rig_publish_retained(rig, ENTRY(CAR), "{\"id\":43,\"name\":\"Car 2\"}");
    rig_publish_retained(rig, ENTRY(LORRY), "");
    expect_device(rig, STATE(42), "{'name':'Van 1'}", "false");
    expect_device(rig, STATE(43), "{'name':'Car 2'}", "false");
    expect_gone(rig, STATE(44));
    expect_all_in_a_generation(rig);
    rig_broker_fall_back(rig, PERSISTS);
    rig_expect_standing(rig, ENTRY(VAN), "{\"id\":42,\"name\":\"Van 1\"}");
    rig_expect_standing(rig, ENTRY(CAR), "{\"id\":43,\"name\":\"Car 2\"}");
    rig_expect_standing(rig, ENTRY(LORRY), NULL);
    expect_device(rig, STATE(42), "{'name':'Van 1'}", "false");
    expect_device(rig, STATE(43), "{'name':'Car 2'}", "false");
    expect_gone(rig, STATE(44));
    rig_finish(rig);
}

// --- several gateways ---

static struct rig *three_up(void) {
    struct rig *rig = rig_up("{'home_assistant':{'enabled':true}}");
    struct rig *second = rig_beside(rig), *third = rig_beside(second);
    rig_gateway_start(second, "{'mqtt':{'client_id':'second'},'commands':{'intake':false},"
                              "'home_assistant':{'enabled':true}}");
    rig_gateway_start(third, "{'mqtt':{'client_id':'third'},'commands':{'intake':false},"
                             "'home_assistant':{'enabled':true}}");
    rig_expect(rig, "state/gw/instances/second", "{'state':'online'}");
    rig_expect(rig, "state/gw/instances/third", "{'state':'online'}");
    return rig;
}

static void expect_that_all_have(struct rig *rig, const char *name) {
    char subset[80];
    snprintf(subset, sizeof subset, "{'device.name':'%s'}", name);
    for (struct rig *one = rig; one != NULL; one = one->beside) {
        int device = rig_tcp(one);
        device_send(device, report(VAN, 1));
        rig_expect(rig, "message/gw/devices/" VAN, subset);
        close(device);
        rig_expect_standing(rig, VAN_STATE "/connected", "false");
    }
}

STORY(adoption, all_gateways_follow) {
    struct rig *rig = three_up(), *second = rig->beside;
    int device = rig_tcp(second);
    say(rig, device, VAN, REPORT);
    expect_device(rig, VAN_STATE, "{'name':'" VAN "'}", "true");
    rig_publish_retained(rig, ENTRY(VAN), "{\"name\":\"Van 1\"}");
    rig_expect(rig, "log/gw/devices/" VAN "/created", "{'name':'Van 1','instance':'trackbus'}");
    expect_device(rig, VAN_STATE, "{'name':'Van 1','protocol_id':1}", "true");
    rig_expect_standing(rig, VAN_STATE "/instance", "\"second\"");
    json_decref(rig_expect_standing_json(rig, HOME_ASSISTANT, "{'device':{'name':'Van 1'}}"));
    rig_publish_retained(rig, ENTRY(VAN), "{\"name\":\"Van 2\"}");
    expect_device(rig, VAN_STATE, "{'name':'Van 2','protocol_id':1}", "true");
    rig_publish_retained(rig, ENTRY(VAN), "{\"name\":\"Van 2\",\"id\":42}");
    expect_device(rig, STATE(42), "{'name':'Van 2','ident':'" VAN "','protocol_id':1}", "true");
    rig_expect_standing(rig, STATE(42) "/instance", "\"second\"");
    expect_gone(rig, VAN_STATE);
    rig_publish_retained(rig, ENTRY(VAN), "{\"name\":\"Van 3\"}");
    expect_device(rig, VAN_STATE, "{'name':'Van 3','protocol_id':1}", "true");
    expect_gone(rig, STATE(42));
    close(device);
    rig_expect_standing(rig, VAN_STATE "/connected", "false");
    expect_that_all_have(rig, "Van 3");
    json_decref(rig_expect_standing_json(rig, HOME_ASSISTANT, "{'device':{'name':'Van 3'}}"));
    rig_publish_retained(rig, ENTRY(VAN), "");
    rig_expect(rig, "log/gw/devices/" VAN "/deleted", NULL);
    expect_gone(rig, VAN_STATE);
    rig_expect_none_retained(rig, "/homeassistant/+/+/+/config");
    expect_that_all_have(rig, VAN);
    cr_assert(rig_count(rig, "log/gw/devices/" VAN "/deleted") == 2, "%zu",
              rig_count(rig, "log/gw/devices/" VAN "/deleted")); // once its id was no longer its own
    rig_finish(rig);
}

// Whichever gateway it comes to, or comes back to.
STORY(adoption, a_stranger_that_moves_is_told_of_once) {
    struct rig *rig = three_up();
    expect_that_all_have(rig, VAN);
    expect_that_all_have(rig, VAN);
    cr_assert_eq(rig_count(rig, "log/gw/devices/" VAN "/created"), 1);
    rig_finish(rig);
}

#define VAN_IS_LISTED "'devices':[{'ident':'" VAN "','name':'Van 1'}]"
#define IS_SECOND     "'mqtt':{'client_id':'second'},'commands':{'intake':false}"

static void lose_all(struct rig *rig, const char *changes) {
    char path[96];
    rig_write_config(rig, changes, path, sizeof path);
    rig_gateway_signal(rig, SIGHUP);
    rig_expect_log(rig, "the configuration is read again");
}

// Who hears last that it has gone takes it for gone, though it is there.
STORY(adoption, what_another_gateway_has_goes_before_it_comes_as_a_stranger) {
    struct rig *rig = rig_up("{" VAN_IS_LISTED "}"), *second = rig_beside(rig);
    rig_gateway_start(second, "{" IS_SECOND "," VAN_IS_LISTED "}");
    rig_expect(rig, "state/gw/instances/second", "{'state':'online'}");
    say(rig, rig_tcp(second), VAN, REPORT);
    expect_device(rig, VAN_STATE, "{'name':'Van 1'}", "true");
    lose_all(second, "{" IS_SECOND "}");
    rig_expect(rig, "log/gw/devices/" VAN "/created", "{'name':'" VAN "'}");
    lose_all(rig, NULL);
    say(rig, rig_tcp(rig), CAR, REPORT);
    rig_expect(rig, "log/gw/devices/" CAR "/created", NULL); // what the first had to say of the van is said
    size_t next = 0;
    const struct rig_message *first = rig_next(rig, "log/gw/devices/" VAN "/+", &next), *last = first;
    size_t gone = 0;
    for (; first != NULL; first = rig_next(rig, "log/gw/devices/" VAN "/+", &next)) {
        bool deleted = strstr(first->topic, "/deleted") != NULL;
        gone += deleted;
        last = deleted || strstr(first->topic, "/created") != NULL ? first : last;
    }
    cr_assert(gone == 1 && strstr(last->topic, "/created") != NULL, "gone %zu times, %s is the last", gone,
              last->topic);
    rig_finish(rig);
}

// Who comes later, and who was there when the broker lost all.
Test(adoption, the_one_that_speaks_gives_back_and_others_hear) {
    struct rig *rig = rig_up(NULL), *second = rig_beside(rig);
    rig_publish_retained(rig, ENTRY(VAN), "{\"id\":42,\"name\":\"Van 1\"}");
    expect_device(rig, STATE(42), "{'name':'Van 1'}", "false");
    rig_gateway_start(second, "{'mqtt':{'client_id':'second'},'commands':{'intake':false},"
                              "'unknown_devices':'reject'}");
    rig_expect_log(second, "is added by the broker's registry");
    int device = rig_tcp(second);
    say(rig, device, VAN, REPORT);
    rig_expect(rig, "message/gw/devices/42", "{'device.name':'Van 1'}");
    rig_broker_kill(rig);
    rig_broker_wipe(rig);
    rig_broker_start(rig, NULL);
    rig_expect_standing(rig, ENTRY(VAN), "{\"id\":42,\"name\":\"Van 1\"}");
    expect_device(rig, STATE(42), "{'name':'Van 1'}", "true");
    rig_publish_retained(rig, ENTRY(VAN), "");
    device_expect_closed(device);
    expect_gone(rig, STATE(42));
    rig_finish(rig);
}
