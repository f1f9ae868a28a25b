// Home Assistant's MQTT discovery: what is announced is checked against the keys that Home Assistant
// documents.
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/command_life.h"
#include "tests/e2e/rig.h"

TestSuite(home_assistant, .fini = rig_clean);

#define ENABLED "'home_assistant':{'enabled':true,'unknown_devices':true}"
#define CONFIGS "/homeassistant/+/+/+/config"

#define BOTH_PROTOCOLS                                                                                       \
    "{" ENABLED ",'channels':[{'id':1,'name':'mictrack','protocol':'mictrack','tcp':'127.0.0.1:0'},"         \
    "{'id':2,'name':'magicyo','protocol':'magicyo','tcp':'127.0.0.1:0'}]}"

// Two positions of LORRY, with their accuracy, speed and satellites.
#define LORRY_POSITIONS                                                                                      \
    "5555005138363438363730323235313130313503004100330400025f5e10001a00f6adfeaa228b1302db0f00f00900c0000005" \
    "5f5e1000674e8459155234cd1600000002dfff0000011170633111b2aaaa"

// --- what Home Assistant documents ---

// Of the pages "MQTT device tracker", "MQTT sensor", "MQTT binary sensor" and "MQTT button": those of their
// keys that may be announced here, with their type. A key that is missing here is none, or is deprecated.
#define ALL_OF_THEM "device_tracker sensor binary_sensor button event select text"

static const struct documented {
    const char *key;
    json_type type;
    const char *components; // that have it
    const char *required;   // in these
} documented[] = {
    {"availability_template", JSON_STRING, ALL_OF_THEM, ""},
    {"availability_topic", JSON_STRING, ALL_OF_THEM, ""},
    {"command_template", JSON_STRING, "button select text", ""},
    {"command_topic", JSON_STRING, "button select text", "button select text"},
    {"device", JSON_OBJECT, ALL_OF_THEM, ""},
    {"device_class", JSON_STRING, "sensor binary_sensor button", ""},
    {"enabled_by_default", JSON_FALSE, ALL_OF_THEM, ""},
    {"entity_category", JSON_STRING, ALL_OF_THEM, ""},
    {"event_types", JSON_ARRAY, "event", "event"},
    {"icon", JSON_STRING, ALL_OF_THEM, ""},
    {"json_attributes_topic", JSON_STRING, ALL_OF_THEM, "device_tracker"},
    {"name", JSON_STRING, ALL_OF_THEM, ALL_OF_THEM},
    {"off_delay", JSON_INTEGER, "binary_sensor", ""},
    {"options", JSON_ARRAY, "select", "select"},
    {"origin", JSON_OBJECT, ALL_OF_THEM, ""},
    {"pattern", JSON_STRING, "text", ""},
    {"payload_off", JSON_STRING, "binary_sensor", ""},
    {"payload_on", JSON_STRING, "binary_sensor", ""},
    {"payload_press", JSON_STRING, "button", ""},
    {"qos", JSON_INTEGER, ALL_OF_THEM, ""},
    {"source_type", JSON_STRING, "device_tracker", ""},
    {"state_class", JSON_STRING, "sensor", ""},
    {"state_topic", JSON_STRING, "sensor binary_sensor event", "sensor binary_sensor event"},
    {"suggested_display_precision", JSON_INTEGER, "sensor", ""},
    {"unique_id", JSON_STRING, ALL_OF_THEM, ALL_OF_THEM},
    {"unit_of_measurement", JSON_STRING, "sensor", ""},
    {"value_template", JSON_STRING, "sensor binary_sensor event", ""},
};

static const struct documented of_device[] = {
    {"identifiers", JSON_ARRAY, "device", "device"},
    {"manufacturer", JSON_STRING, "device", ""},
    {"model", JSON_STRING, "device", ""},
    {"name", JSON_STRING, "device", ""},
    {"serial_number", JSON_STRING, "device", ""},
    {"via_device", JSON_STRING, "device", ""},
};

static const struct documented of_origin[] = {
    {"name", JSON_STRING, "origin", "origin"},
    {"sw_version", JSON_STRING, "origin", ""},
};

// Device classes with the units that go with them; "" for none.
static const struct class {
    const char *component, *name, *units;
} classes[] = {
    {"sensor", "voltage", "V mV µV"},
    {"sensor", "battery", "%"},
    {"sensor", "timestamp", ""},
    {"sensor", "speed", "km/h m/s mph kn ft/s"},
    {"binary_sensor", "battery", ""},
    {"binary_sensor", "battery_charging", ""},
    {"binary_sensor", "connectivity", ""},
    {"binary_sensor", "safety", ""},
    {"button", "restart", ""},
};

static bool has_word(const char *words, const char *word) {
    size_t length = strlen(word);
    for (const char *at = words; (at = strstr(at, word)) != NULL; at += length)
        if ((at == words || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0'))
            return true;
    return false;
}

#define CHECK_KEYS(object, table, component)                                                                 \
    check_keys(object, table, sizeof(table) / sizeof(table)[0], component)

static void check_keys(const json_t *object, const struct documented *table, size_t count,
                       const char *component) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        size_t i = 0;
        while (i < count && strcmp(table[i].key, key) != 0)
            i++;
        cr_assert(i < count && has_word(table[i].components, component), "%s has no %s", component, key);
        bool null = json_is_null(value) && strcmp(key, "name") == 0; // the device's name alone
        cr_assert(null || json_typeof(value) == table[i].type, "%s of %s has the wrong type", key, component);
        cr_assert(!json_is_string(value) || *json_string_value(value) != '\0', "%s is empty", key);
    }
    for (size_t i = 0; i < count; i++)
        cr_assert(!has_word(table[i].required, component) || json_object_get(object, table[i].key) != NULL,
                  "%s lacks %s", component, table[i].key);
}

static const char *text_of(const json_t *config, const char *key) {
    const char *text = json_string_value(json_object_get(config, key));
    return text != NULL ? text : "";
}

static void check_class(const json_t *config, const char *component) {
    const char *class = text_of(config, "device_class"), *unit = text_of(config, "unit_of_measurement");
    size_t i = 0, count = sizeof classes / sizeof classes[0];
    if (*class == '\0')
        return;
    while (i < count && (strcmp(classes[i].name, class) != 0 || strcmp(classes[i].component, component) != 0))
        i++;
    cr_assert(i < count, "%s has no class %s", component, class);
    cr_assert(*unit == '\0' ? *classes[i].units == '\0' : has_word(classes[i].units, unit),
              "'%s' is no unit of %s", unit, class);
}

static void check_category(const json_t *config, const char *component) {
    const char *category = text_of(config, "entity_category");
    bool reads = !has_word("button select text", component);
    cr_assert(*category == '\0' || strcmp(category, "diagnostic") == 0 ||
                  (strcmp(category, "config") == 0 && !reads),
              "%s cannot be of category %s", component, category);
}

// A payload as Home Assistant would read it; topic is {prefix}/{component}/{node_id}/{object_id}/config.
static void check_config(const char *topic, const json_t *config) {
    char component[32], node[128], object[128], id[300];
    cr_assert(sscanf(topic, "homeassistant/%31[a-z_]/%127[0-9A-Za-z_-]/%127[0-9A-Za-z_-]/config", component,
                     node, object) == 3,
              "%s is no discovery topic", topic);
    cr_assert(json_is_object(config), "%s", topic);
    CHECK_KEYS(config, documented, component);
    CHECK_KEYS(json_object_get(config, "device"), of_device, "device");
    CHECK_KEYS(json_object_get(config, "origin"), of_origin, "origin");
    check_class(config, component);
    check_category(config, component);
    const json_t *identifiers = json_object_get(json_object_get(config, "device"), "identifiers");
    cr_assert(json_array_size(identifiers) == 1);
    cr_assert_str_eq(json_string_value(json_array_get(identifiers, 0)), node);
    snprintf(id, sizeof id, "%s_%s", node, object);
    cr_assert_str_eq(text_of(config, "unique_id"), id);
}

// All that was announced until now.
static size_t check_configs(struct rig *rig) {
    const struct rig_message *message;
    size_t count = 0, next = 0;
    for (; (message = rig_next(rig, CONFIGS, &next)) != NULL; count++) {
        if (message->length == 0)
            continue; // it goes
        json_t *config = json_of(message);
        check_config(message->topic, config);
        json_decref(config);
    }
    return count;
}

// --- what the tests do ---

static const struct rig_message *expect_entity(struct rig *rig, const char *entity, const char *subset) {
    char topic[160];
    const char *object = strchr(entity, '/');
    snprintf(topic, sizeof topic, "/homeassistant/%.*s/+%s/config", (int)(object - entity), entity, object);
    return rig_expect(rig, topic, subset);
}

static json_t *config_of(struct rig *rig, const char *entity) {
    return json_of(expect_entity(rig, entity, "{}"));
}

// The entities of a device that has not reported anything.
static void expect_first_entities(struct rig *rig, const char *subset) {
    expect_entity(rig, "device_tracker/position", subset);
    expect_entity(rig, "binary_sensor/connected", subset);
    expect_entity(rig, "sensor/last_seen", subset);
}

// A device whose report has come through. The state follows the message in the outbox.
static int van_that_said(struct rig *rig, const char *text) {
    int device = rig_tcp(rig);
    device_send(device, text);
    rig_expect(rig, "message/gw/devices/+", NULL);
    return device;
}

static struct rig *rig_with_registry(const char *devices) {
    struct rig *rig = rig_with_broker(NULL);
    char changes[256];
    rig_write_json(rig, "devices.json", devices);
    snprintf(changes, sizeof changes, "{" ENABLED ",'devices_file':'%s/devices.json'}", rig->directory);
    rig_gateway_start(rig, changes);
    rig_expect_log(rig, ": connected");
    return rig;
}

static void reload(struct rig *rig, const char *devices) {
    rig_write_json(rig, "devices.json", devices);
    rig_gateway_signal(rig, SIGHUP);
    rig_expect_log(rig, "the registry has");
}

// --- the entities ---

Test(home_assistant, tracker) {
    struct rig *rig = rig_up("{" ENABLED "}");
    van_that_said(rig, report(VAN, 113));
    expect_entity(rig, "device_tracker/position", "{'device':{'model':'Mictrack MT821, MT825'}}");
    json_t *config =
        rig_expect_standing_json(rig, "/homeassistant/device_tracker/trackbus_" VAN "/position/config", "{}");
    json_t *expected = rig_json(
        "{'availability_template':'{{ value_json.state }}',"
        "'availability_topic':'trackbus/state/gw/instances/trackbus',"
        "'device':{'identifiers':['trackbus_" VAN "'],'model':'Mictrack MT821, MT825','name':'" VAN "',"
        "'serial_number':'" VAN "','via_device':'trackbus_gateway_trackbus'},"
        "'json_attributes_topic':'trackbus/state/gw/devices/" VAN "/telemetry/position','name':null,"
        "'origin':{'name':'trackbus','sw_version':'0.1.0'},'qos':1,'source_type':'gps',"
        "'unique_id':'trackbus_" VAN "_position'}");
    char *came = json_dumps(config, 0);
    cr_assert(json_equal(config, expected), "came %s", came);
    free(came);
    json_decref(expected);
    json_decref(config);
    rig_finish(rig);
}

// Of a type that schema/models.json has; without one, a model is what the protocol is called.
Test(home_assistant, model_of_a_type) {
    struct rig *rig = rig_with_registry("[{'ident':'" VAN "','id':42,'type_id':825}]");
    van_that_said(rig, report(VAN, 1));
    expect_entity(rig, "button/reboot", "{'device':{'manufacturer':'Mictrack','model':'MT825'}}");
    reload(rig, "[{'ident':'" VAN "','id':42,'type_id':7}]");
    expect_entity(rig, "button/reboot", "{'device':{'model':'Mictrack MT821, MT825'}}");
    check_configs(rig);
    rig_finish(rig);
}

// The template for the availability finds "online" and "offline".
Test(home_assistant, availability_is_that_of_the_gateway) {
    struct rig *rig = rig_up("{" ENABLED "}");
    van_that_said(rig, report(VAN, 113));
    json_t *config = config_of(rig, "device_tracker/position");
    char topic[128];
    snprintf(topic, sizeof topic, "/%s", text_of(config, "availability_topic"));
    json_decref(rig_expect_standing_json(rig, topic, "{'state':'online'}"));
    rig_gateway_stop(rig);
    json_decref(rig_expect_standing_json(rig, topic, "{'state':'offline'}"));
    rig->finished = true;
    json_decref(config);
}

Test(home_assistant, entities_of_a_tracker) {
    struct rig *rig = rig_up("{" ENABLED "}");
    van_that_said(rig, report(VAN, 113));
    expect_first_entities(rig, "{}");
    expect_entity(rig, "sensor/battery_voltage",
                  "{'state_topic':'trackbus/state/gw/devices/" VAN "/telemetry/battery.voltage',"
                  "'unit_of_measurement':'V','device_class':'voltage','state_class':'measurement',"
                  "'suggested_display_precision':2}");
    expect_entity(rig, "sensor/position_speed",
                  "{'state_topic':'trackbus/state/gw/devices/" VAN "/telemetry/position.speed',"
                  "'unit_of_measurement':'km/h','device_class':'speed','name':'Speed'}");
    expect_entity(rig, "sensor/position_satellites", "{'state_class':'measurement'}");
    expect_entity(rig, "sensor/battery",
                  "{'state_topic':'trackbus/state/gw/devices/" VAN "/telemetry/battery.voltage',"
                  "'unit_of_measurement':'%','device_class':'battery','state_class':'measurement'}");
    expect_entity(rig, "sensor/timestamp",
                  "{'state_topic':'trackbus/state/gw/devices/" VAN "/telemetry/timestamp',"
                  "'device_class':'timestamp','value_template':'{{ value | float | as_datetime if value else "
                  "this.state }}'}");
    expect_entity(rig, "event/alarm", "{'state_topic':'trackbus/message/gw/devices/" VAN "'}");
    expect_entity(
        rig, "binary_sensor/alarm_event",
        "{'state_topic':'trackbus/state/gw/devices/" VAN
        "/alarms','payload_on':'true','payload_off':'false','off_delay':600,"
        "'value_template':'{% if value %}{{ (value_json[\\u0027alarm.event\\u0027] is defined and "
        "as_timestamp(now()) - value_json[\\u0027server.timestamp\\u0027] < 600) | lower }}{% endif %}'}");
    expect_entity(rig, "binary_sensor/battery_low_alarm",
                  "{'device_class':'battery','value_template':'{% if value %}{{ (value_json"
                  "[\\u0027battery.low.alarm\\u0027] is defined) | lower }}{% endif %}'}");
    expect_entity(rig, "binary_sensor/geofence_in_alarm", "{}");
    expect_entity(rig, "binary_sensor/geofence_out_alarm", "{}");
    expect_entity(rig, "button/where", "{}");
    expect_entity(rig, "button/reboot", "{'device_class':'restart'}");
    expect_entity(rig, "text/mode", "{'command_template':'mode,{{ value }}#','entity_category':'config'}");
    expect_entity(rig, "select/network",
                  "{'options':['cat-m1','nb-iot','gsm'],'enabled_by_default':false,"
                  "'command_template':'{\\\"name\\\":\\\"netlock\\\",\\\"properties\\\":{\\\"network\\\":"
                  "\\\"{{ value }}\\\"}}'}");
    cr_assert(check_configs(rig) == 17, "%zu entities", rig_count(rig, CONFIGS));
    rig_finish(rig);
}

Test(home_assistant, states_are_what_the_entities_read) {
    struct rig *rig = rig_up("{" ENABLED "}");
    van_that_said(rig, report(VAN, 113));
    json_t *connected = config_of(rig, "binary_sensor/connected");
    char topic[128];
    snprintf(topic, sizeof topic, "/%s", text_of(connected, "state_topic"));
    cr_assert_str_eq(rig_expect(rig, topic, NULL)->payload, text_of(connected, "payload_on"));
    json_t *speed = config_of(rig, "sensor/position_speed");
    snprintf(topic, sizeof topic, "/%s", text_of(speed, "state_topic"));
    cr_assert_str_eq(rig_expect(rig, topic, NULL)->payload, "2.14");
    json_decref(speed);
    json_decref(connected);
    rig_finish(rig);
}

// Seconds without a report that an alarm stays on; 0: as long as none comes.
Test(home_assistant, alarm_is_held_as_configured) {
    struct rig *rig = rig_up("{'home_assistant':{'enabled':true,'unknown_devices':true,'alarm_hold':0}}");
    van_that_said(rig, report(VAN, 113));
    json_t *config = config_of(rig, "binary_sensor/alarm_event"), *event = config_of(rig, "event/alarm");
    cr_assert_null(json_object_get(config, "off_delay"));
    const json_t *types = json_object_get(event, "event_types");
    json_t *expected =
        rig_json("['alarm_event','battery_low_alarm','geofence_in_alarm','geofence_out_alarm']");
    cr_assert(json_equal(types, expected));
    cr_assert(strstr(text_of(event, "value_template"), "in ['alarm.event','battery.low.alarm',") != NULL);
    json_decref(expected);
    json_decref(event);
    json_decref(config);
    rig_finish(rig);
}

// --- alarms ---

#define ALARMS "state/gw/devices/" VAN "/alarms"
#define SOS    5
#define MOVED  2

// A report of so long ago, by a clock that is right.
static const char *report_of(int seconds_ago, int event, int millivolts) {
    static char text[128];
    char when[16];
    time_t then = time(NULL) - seconds_ago;
    strftime(when, sizeof when, "%y%m%d%H%M%S", gmtime(&then));
    snprintf(text, sizeof text, "MT;6;" VAN ";R0;10+%s+22.63827+114.02922+2.14+69+%d+%d+1\r\n", when, event,
             millivolts);
    return text;
}

static bool is_raised(struct rig *rig, const char *alarm) {
    json_t *retained = rig_retained(rig, ALARMS), *value;
    const char *topic;
    bool raised = false;
    json_object_foreach(retained, topic, value) raised = strstr(json_string_value(value), alarm) != NULL;
    json_decref(retained);
    return raised;
}

// What was sent before has been taken.
static void expect_taken(struct rig *rig, size_t reports) {
    rig_expect_count(rig, "message/gw/devices/" VAN, reports);
    device_send(rig_tcp(rig), report(CAR, 1));
    rig_expect(rig, "state/gw/devices/" CAR "/last_active", NULL);
}

// By the newest report, not by the one that came last; and whoever comes later finds it.
Test(home_assistant, alarms_are_those_of_the_newest_report) {
    struct rig *rig = rig_up("{" ENABLED ",'telemetry_interval':0}");
    int device = van_that_said(rig, report_of(0, SOS, 3744));
    json_decref(rig_expect_standing_json(rig, ALARMS, "{'alarm.event':true}"));
    device_send(device, report_of(3600, MOVED, 3744)); // from its memory
    expect_taken(rig, 2);
    cr_expect(is_raised(rig, "alarm.event"), "an old report has ended it");
    device_send(device, report_of(0, MOVED, 3744));
    rig_expect(rig, "message/gw/devices/" VAN, NULL);
    rig_expect_count(rig, ALARMS, 2);
    cr_expect(!is_raised(rig, "alarm.event"));
    close(device);
    rig_expect_standing(rig, "state/gw/devices/" VAN "/connected", "false");
    rig_finish(rig);
}

// An SOS of an hour ago is no alarm now; the message, and so the event, has its time.
Test(home_assistant, alarms_from_the_memory_of_a_tracker_are_over) {
    struct rig *rig = rig_up("{" ENABLED ",'telemetry_interval':0}");
    int device = van_that_said(rig, report_of(0, MOVED, 3744));
    device_send(device, report_of(3600, SOS, 3744));
    rig_expect(rig, "message/gw/devices/" VAN, "{'alarm.event':true}");
    expect_taken(rig, 2);
    cr_expect_eq(rig_count(rig, ALARMS), 1);
    cr_expect(!is_raised(rig, "alarm.event"));
    json_t *event = config_of(rig, "event/alarm");
    cr_expect(strstr(text_of(event, "value_template"), "\"timestamp\":{{ value_json.timestamp }}") != NULL);
    json_decref(event);
    rig_finish(rig);
}

// It is low until a report shows that it is not: the next one that does not say so is no such.
Test(home_assistant, battery_that_is_low_stays_low) {
    struct rig *rig = rig_up("{" ENABLED ",'telemetry_interval':0}");
    int device = van_that_said(rig, report_of(0, MOVED, 3600));
    json_decref(rig_expect_standing_json(rig, ALARMS, "{'battery.low.alarm':true}"));
    device_send(device, report_of(0, MOVED, 4000));
    rig_expect_count(rig, ALARMS, 2);
    cr_expect(!is_raised(rig, "battery.low.alarm"));
    rig_gateway_stop(rig);
    rig_gateway_start(rig, "{'home_assistant':{'enabled':true},'unknown_devices':'reject'}");
    rig_expect_none_retained(rig, "state/gw/devices/" VAN "/#");
    rig_finish(rig);
}

// The user's points take the place of the codec's, for OwnTracks as well; a protocol without any gets the entity.
Test(home_assistant, battery_by_the_points_of_the_configuration) {
    struct rig *rig =
        rig_up("{" ENABLED ",'owntracks':{'enabled':true},'channels':[{'id':1,'name':'mictrack',"
               "'protocol':'mictrack','tcp':'127.0.0.1:0','battery':[[3.644,0],[3.844,100]]}]}");
    van_that_said(rig, report(VAN, 1));
    json_t *battery = config_of(rig, "sensor/battery");
    cr_expect(strstr(text_of(battery, "value_template"), "in [(3644,0,3844,100),]") != NULL, "%s",
              text_of(battery, "value_template"));
    json_decref(battery);
    json_decref(rig_expect_standing_json(rig, "/owntracks/trackbus/" VAN, "{'batt':50}"));
    rig_finish(rig);
}

// --- the gateway ---

Test(home_assistant, gateway_is_a_device) {
    struct rig *rig = rig_up("{" ENABLED "}");
    json_decref(rig_expect_standing_json(
        rig, "/homeassistant/sensor/trackbus_gateway_trackbus_version/config",
        "{'state_topic':'trackbus/state/gw/instances/"
        "trackbus','unique_id':'trackbus_gateway_trackbus_version',"
        "'device':{'identifiers':['trackbus_gateway_trackbus'],'name':'trackbus (trackbus)'}}"));
    const char *const others[] = {
        "sensor/trackbus_gateway_trackbus_connections", "sensor/trackbus_gateway_trackbus_messages",
        "sensor/trackbus_gateway_trackbus_outbox", "binary_sensor/trackbus_gateway_trackbus_link"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        char topic[128];
        snprintf(topic, sizeof topic, "/homeassistant/%s/config", others[i]);
        json_decref(rig_expect_standing_json(rig, topic, "{'origin':{'name':'trackbus'}}"));
    }
    rig_finish(rig);
}

// It has no alarms, and no commands for a button.
Test(home_assistant, entities_of_another_protocol) {
    struct rig *rig = rig_up(BOTH_PROTOCOLS);
    device_send_hex(rig_tcp_to(rig, "magicyo"), LORRY_POSITIONS);
    expect_first_entities(rig, "{'device':{'model':'Magicyo'}}");
    expect_entity(rig, "sensor/position_satellites", "{}");
    expect_entity(rig, "sensor/position_speed", "{}");
    rig_finish(rig);
    cr_assert(check_configs(rig) == 6, "%zu entities", rig_count(rig, CONFIGS));
}

// Where Home Assistant reads the position, the members that it looks for are there, as numbers.
Test(home_assistant, attributes_of_the_tracker) {
    struct rig *rig = rig_up(BOTH_PROTOCOLS);
    char topic[128];
    device_send_hex(rig_tcp_to(rig, "magicyo"), LORRY_POSITIONS);
    json_t *config = config_of(rig, "device_tracker/position");
    snprintf(topic, sizeof topic, "/%s", text_of(config, "json_attributes_topic"));
    // There are two positions: the first may stand there for a moment.
    json_decref(rig_expect_standing_json(
        rig, topic, "{'latitude':-34.60374,'longitude':-58.38162,'gps_accuracy':70000,'speed':0}"));
    json_decref(config);
    rig_finish(rig);
}

Test(home_assistant, button_reaches_the_device) {
    struct rig *rig = rig_up("{" ENABLED "}");
    int device = van_that_said(rig, report(VAN, 113));
    char topic[128];
    json_t *where = config_of(rig, "button/where"), *reboot = config_of(rig, "button/reboot");
    snprintf(topic, sizeof topic, "/%s", text_of(where, "command_topic"));
    rig_publish(rig, topic, text_of(where, "payload_press"));
    device_expect(device, "where?");
    device_send(device, report(VAN, 114));
    rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/where?/processed", "{'executed':true}");
    snprintf(topic, sizeof topic, "/%s", text_of(reboot, "command_topic"));
    rig_publish(rig, topic, text_of(reboot, "payload_press"));
    device_expect(device, "reboot,0#");
    json_decref(where);
    json_decref(reboot);
    rig_finish(rig);
}

Test(home_assistant, topics_of_other_prefixes) {
    struct rig *rig = rig_with_broker(NULL);
    rig->topic_prefix = "fleet/südtirol";
    rig_gateway_start(rig, "{'mqtt':{'topic_prefix':'fleet/südtirol'},"
                           "'home_assistant':{'enabled':true,'unknown_devices':true,'prefix':'my/house'}}");
    device_send(rig_tcp(rig), report(VAN, 113));
    rig_expect(rig, "/my/house/device_tracker/fleet_s__dtirol_" VAN "/position/config",
               "{'json_attributes_topic':'fleet/südtirol/state/gw/devices/" VAN "/telemetry/position',"
               "'unique_id':'fleet_s__dtirol_" VAN "_position'}");
    rig_finish(rig);
}

// --- which entities ---

Test(home_assistant, entities_grow) {
    struct rig *rig = rig_up("{" ENABLED "}");
    int device = van_that_said(rig, "MT;4;" VAN ";RH;5+190116112648+0+0+0+0+11+3954+1\r\n");
    expect_entity(rig, "sensor/battery_voltage", "{}");
    expect_entity(rig, "button/reboot", "{}"); // the last
    expect_none(rig, "/homeassistant/sensor/+/position_speed/config");
    device_send(device, report(VAN, 2));
    expect_entity(rig, "sensor/position_speed", "{}");
    device_send(device, "MT;6;" VAN ";R0;10+190109091803+22.63827+114.02922+2.14+69+13+3744+3\r\n");
    expect_entity(rig, "binary_sensor/battery_charging_status",
                  "{'state_topic':'trackbus/state/gw/devices/" VAN "/telemetry/battery.charging.status',"
                  "'payload_on':'true','payload_off':'false','device_class':'battery_charging'}");
    cr_assert(rig_count(rig, "/homeassistant/sensor/+/battery_voltage/config") == 1, "once is enough");
    cr_assert(check_configs(rig) == 18, "%zu entities", rig_count(rig, CONFIGS));
    rig_finish(rig);
}

Test(home_assistant, listed_device_before_it_is_heard) {
    struct rig *rig = rig_with_registry("[{'ident':'" VAN "','id':42,'name':'Van 1'}]");
    expect_first_entities(rig, "{'device':{'name':'Van 1','identifiers':['trackbus_42']}}");
    cr_assert(check_configs(rig) == 3, "%zu entities", rig_count(rig, CONFIGS));
    device_send(rig_tcp(rig), report(VAN, 1));
    expect_entity(rig, "button/where", "{'command_topic':'trackbus/command/gw/devices/42'}");
    rig_finish(rig);
}

Test(home_assistant, only_the_position) {
    struct rig *rig = rig_up("{" ENABLED ",'telemetry':'position'}");
    device_send(rig_tcp(rig), "MT;6;" VAN ";R0;10+190109091803+22.63827+114.02922+2.14+69+13+3744+3\r\n");
    expect_entity(rig, "button/reboot", "{}");
    rig_expect(rig, "state/gw/devices/" VAN "/telemetry/position", "{'latitude':22.63827}");
    rig_finish(rig);
    cr_assert(rig_count(rig, "/homeassistant/device_tracker/#") == 1);
    cr_assert(rig_count(rig, "/homeassistant/sensor/+/+/config") == 1, "last seen");
    expect_none(rig, "/homeassistant/+/+/battery_charging_status/config");
}

Test(home_assistant, without_telemetry) {
    struct rig *rig = rig_up("{" ENABLED ",'telemetry':'off'}");
    device_send(rig_tcp(rig), report(VAN, 1));
    expect_entity(rig, "binary_sensor/connected", "{}");
    expect_entity(rig, "button/reboot", "{}");
    rig_finish(rig);
    expect_none(rig, "/homeassistant/device_tracker/#");
    cr_assert(rig_count(rig, "/homeassistant/sensor/+/+/config") == 1, "last seen");
}

Test(home_assistant, disabled) {
    struct rig *rig = rig_up("{'devices':[{'ident':'" VAN "','id':42}]}");
    device_send(rig_tcp(rig), report(VAN, 1));
    rig_expect(rig, "state/gw/devices/42/telemetry/position", NULL);
    rig_publish(rig, "/homeassistant/status", "online");
    rig_finish(rig);
    expect_none(rig, CONFIGS);
}

// --- again ---

Test(home_assistant, birth) {
    struct rig *rig = rig_up("{" ENABLED "}");
    van_that_said(rig, report(VAN, 113));
    expect_entity(rig, "sensor/position_speed", "{}");
    expect_entity(rig, "button/reboot", "{}");
    rig_publish(rig, "/homeassistant/status", "offline");
    rig_publish(rig, "/homeassistant/status", "online");
    expect_entity(rig, "sensor/position_speed", "{}");
    expect_entity(rig, "button/reboot", "{}");
    cr_assert(check_configs(rig) == 34, "%zu", rig_count(rig, CONFIGS));
    rig_finish(rig);
}

Test(home_assistant, broker_that_lost_all) {
    struct rig *rig = rig_up("{" ENABLED "}");
    int device = van_that_said(rig, report(VAN, 113));
    expect_entity(rig, "sensor/position_speed", "{}");
    expect_entity(rig, "button/reboot", "{}");
    rig_broker_kill(rig);
    rig_broker_wipe(rig);
    rig_broker_start(rig, NULL);
    expect_entity(rig, "sensor/position_speed", "{}");
    expect_entity(rig, "button/reboot", "{}");
    device_send(device, report(VAN, 114));
    rig_expect(rig, "message/gw/devices/" VAN, "{'message.seqnum':114}");
    rig_finish(rig);
}

// The broker told nothing of this device when the gateway started, and never will.
Test(home_assistant, broker_that_lost_all_while_an_unlisted_device_sleeps) {
    struct rig *rig = rig_up("{" ENABLED "}");
    close(van_that_said(rig, report(VAN, 113)));
    expect_entity(rig, "button/reboot", "{}");
    rig_expect_standing(rig, "state/gw/devices/" VAN "/connected", "false");
    rig_broker_kill(rig);
    rig_broker_wipe(rig);
    rig_broker_start(rig, NULL);
    rig_expect_standing(rig, "state/gw/devices/" VAN "/connected", "false");
    json_decref(
        rig_expect_standing_json(rig, "/homeassistant/button/trackbus_" VAN "/reboot/config", "{'qos':1}"));
    cr_assert_eq(rig_count_retained(rig, "/homeassistant/+/trackbus_" VAN "/+/config"), 17);
    rig_finish(rig);
}

Test(home_assistant, another_name) {
    struct rig *rig = rig_with_registry("[{'ident':'" VAN "','id':42,'name':'Van 1'}]");
    van_that_said(rig, report(VAN, 1));
    expect_entity(rig, "sensor/position_speed", "{'device':{'name':'Van 1'}}");
    expect_entity(rig, "button/reboot", "{'device':{'name':'Van 1'}}");
    reload(rig, "[{'ident':'" VAN "','id':42,'name':'Van \\u00fc'}]");
    expect_entity(rig, "device_tracker/position", "{'device':{'name':'Van ü'},'name':null}");
    expect_entity(rig, "sensor/position_speed", "{'device':{'name':'Van ü'},'name':'Speed'}");
    expect_entity(rig, "button/reboot", "{'device':{'name':'Van ü'}}");
    check_configs(rig);
    rig_finish(rig);
}

Test(home_assistant, another_id) {
    struct rig *rig = rig_with_registry("[{'ident':'" VAN "','id':42}]");
    van_that_said(rig, report(VAN, 1));
    expect_entity(rig, "button/reboot", "{'command_topic':'trackbus/command/gw/devices/42'}");
    reload(rig, "[{'ident':'" VAN "','id':43}]");
    expect_entity(rig, "button/reboot", "{'command_topic':'trackbus/command/gw/devices/43'}");
    rig_expect_none_retained(rig, "/homeassistant/+/trackbus_42/+/config");
    cr_assert(rig_count_retained(rig, "/homeassistant/+/trackbus_43/+/config") == 17);
    rig_finish(rig);
}

// The device that has the id now does not inherit the other one's entities.
Test(home_assistant, id_of_another_device) {
    struct rig *rig = rig_with_registry("[{'ident':'" VAN "','id':42}]");
    van_that_said(rig, report(VAN, 1));
    expect_entity(rig, "button/reboot", "{}");
    reload(rig, "[{'ident':'" LORRY "','id':42,'name':'Car'},{'ident':'" VAN "','id':7}]");
    expect_entity(rig, "button/reboot", "{'command_topic':'trackbus/command/gw/devices/7'}");
    expect_first_entities(rig, "{'device':{'name':'Car','identifiers':['trackbus_42']}}");
    rig_expect_none_retained(rig, "/homeassistant/+/trackbus_42/battery_voltage/config");
    cr_assert(rig_count_retained(rig, "/homeassistant/+/trackbus_42/+/config") == 3);
    rig_finish(rig);
}

// --- gone ---

Test(home_assistant, removed_from_the_registry) {
    struct rig *rig = rig_with_registry("[{'ident':'" VAN "','id':42},{'ident':'" LORRY "','id':7}]");
    close(van_that_said(rig, report(VAN, 1)));
    expect_entity(rig, "button/reboot", "{}");
    expect_first_entities(rig, "{'device':{'identifiers':['trackbus_7']}}");
    rig_expect(rig, "state/gw/devices/42/connected", "false");
    reload(rig, "[{'ident':'" LORRY "','id':7}]");
    rig_expect_none_retained(rig, "/homeassistant/+/trackbus_42/+/config");
    cr_assert(rig_count_retained(rig, "/homeassistant/+/trackbus_7/+/config") == 3);
    rig_finish(rig);
}

Test(home_assistant, removed_while_the_gateway_was_away) {
    struct rig *rig = rig_with_registry("[{'ident':'" VAN "','id':42,'name':'Van 1'}]");
    van_that_said(rig, report(VAN, 1));
    expect_entity(rig, "button/reboot", "{}");
    rig_gateway_stop(rig);
    rig_gateway_start(rig, "{" ENABLED ",'unknown_devices':'reject'}");
    rig_expect_none_retained(rig, CONFIGS);
    rig_finish(rig);
}

#define WITH_A_NAMELESS_VAN "{'home_assistant':{'enabled':true},'devices':[{'ident':'" VAN "'}]}"

// By what the broker has of it, it is like any stranger.
Test(home_assistant, removed_from_the_configuration_while_the_gateway_was_away) {
    struct rig *rig = rig_up(WITH_A_NAMELESS_VAN);
    close(van_that_said(rig, report(VAN, 1)));
    expect_entity(rig, "button/reboot", "{}");
    rig_expect(rig, "state/gw/devices/" VAN "/connected", "false");
    rig_publish(rig, "command/gw/devices/" VAN, "rconf,1#");
    rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/custom/queued", NULL);
    rig_gateway_stop(rig);
    rig_gateway_start(rig, "{'home_assistant':{'enabled':true}}");
    rig_expect(rig, "log/gw/devices/" VAN "/deleted", NULL);
    rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/custom/canceled", NULL);
    rig_expect_none_retained(rig, CONFIGS);
    rig_expect_none_retained(rig, "state/gw/devices/" VAN "/#");
    van_that_said(rig, report(VAN, 2));
    rig_expect(rig, "log/gw/devices/" VAN "/created", NULL);
    rig_expect_standing(rig, "state/gw/devices/" VAN "/telemetry/message.seqnum", "2");
    rig_gateway_stop(rig);
    rig_gateway_start(rig, "{'home_assistant':{'enabled':true}}"); // and stays
    rig_expect_log(rig, ": connected");
    van_that_said(rig, report(VAN, 3));
    rig_expect_standing(rig, "state/gw/devices/" VAN "/telemetry/message.seqnum", "3");
    rig_expect_none_retained(rig, CONFIGS);
    cr_assert_eq(rig_count(rig, "log/gw/devices/" VAN "/deleted"), 1);
    rig_finish(rig);
}

Test(home_assistant, id_given_away_while_the_gateway_was_away) {
    struct rig *rig = rig_with_registry("[{'ident':'" VAN "','id':42}]");
    van_that_said(rig, report(VAN, 1));
    expect_entity(rig, "button/reboot", "{}");
    rig_gateway_stop(rig);
    rig_gateway_start(rig, "{" ENABLED ",'devices':[{'ident':'" LORRY "','id':42,'name':'Car'}]}");
    rig_expect_none_retained(rig, "/homeassistant/button/#");
    expect_first_entities(rig, "{'device':{'name':'Car'}}");
    rig_finish(rig);
}

// The gateway remembers the device's protocol from the last run.
Test(home_assistant, gateway_started_again) {
    struct rig *rig = rig_with_registry("[{'ident':'" VAN "','id':42,'name':'Van 1'}]");
    van_that_said(rig, report(VAN, 1));
    expect_entity(rig, "button/reboot", "{}");
    rig_gateway_stop(rig);
    rig_gateway_start(rig, "{" ENABLED ",'devices':[{'ident':'" VAN "','id':42,'name':'Van 2'}]}");
    expect_entity(rig, "device_tracker/position",
                  "{'device':{'name':'Van 2','model':'Mictrack MT821, MT825'}}");
    expect_entity(rig, "button/reboot", "{'device':{'name':'Van 2'}}");
    rig_finish(rig);
}

// --- several gateways ---

// The gateway that has the device announces it, and its entities depend on that gateway.
Test(home_assistant, device_that_goes_to_another_gateway) {
    struct rig *rig = rig_up("{" ENABLED "}"), *second = rig_beside(rig);
    rig_gateway_start(second, "{" ENABLED ",'mqtt':{'client_id':'second'},'commands':{'intake':false}}");
    rig_expect_log(second, ": connected");
    van_that_said(rig, report(VAN, 1));
    expect_entity(rig, "button/reboot", "{'availability_topic':'trackbus/state/gw/instances/trackbus'}");
    van_that_said(second, report(VAN, 2));
    expect_entity(rig, "button/reboot", "{'availability_topic':'trackbus/state/gw/instances/second'}");
    van_that_said(rig, report(VAN, 3));
    expect_entity(rig, "button/reboot", "{'availability_topic':'trackbus/state/gw/instances/trackbus'}");
    rig_finish(rig);
}

// A gateway that starts later does not announce the devices of another.
Test(home_assistant, listed_device_of_another_gateway) {
    struct rig *rig = rig_up("{" ENABLED ",'devices':[{'ident':'" VAN "','id':42}]}");
    van_that_said(rig, report(VAN, 1));
    expect_entity(rig, "button/reboot", "{}");
    struct rig *second = rig_beside(rig);
    rig_gateway_start(second, "{" ENABLED ",'mqtt':{'client_id':'second'},'commands':{'intake':false},"
                              "'devices':[{'ident':'" VAN "','id':42},{'ident':'" LORRY "','id':7}]}");
    expect_first_entities(rig, "{'device':{'identifiers':['trackbus_7']}}");
    rig_gateway_stop(second);
    cr_assert(rig_count(rig, "/homeassistant/button/trackbus_42/reboot/config") == 1);
    rig_finish(rig);
}

#define LISTED "'devices':[{'ident':'" VAN "','id':" VAN "}]"

// It sleeps, and its entities depend on a gateway that is gone: one that is left announces it.
Test(home_assistant, sleeping_device_of_a_gateway_that_is_gone) {
    struct rig *rig = rig_up("{" ENABLED "," LISTED "}"), *second = rig_beside(rig);
    rig_gateway_start(second,
                      "{" ENABLED "," LISTED ",'mqtt':{'client_id':'second'},'commands':{'intake':false}}");
    rig_expect_log(second, ": connected");
    close(van_that_said(second, report(VAN, 1)));
    rig_expect_standing(rig, "state/gw/devices/" VAN "/connected", "false");
    expect_entity(rig, "button/reboot", "{'availability_topic':'trackbus/state/gw/instances/second'}");
    rig_gateway_kill(second);
    expect_entity(rig, "button/reboot", "{'availability_topic':'trackbus/state/gw/instances/trackbus'}");
    rig_expect_standing(rig, "state/gw/devices/" VAN "/instance", "\"trackbus\"");
    rig_finish(rig);
}

#define LORRY_BUTTONS "/homeassistant/button/trackbus_" LORRY "/+/config"

// Its identity and its entities follow it, also when its first connection lives on, and across a restart.
Test(home_assistant, device_that_moves_to_another_protocol) {
    struct rig *rig = rig_up(BOTH_PROTOCOLS);
    device_send(rig_tcp(rig), report(LORRY, 1));
    expect_entity(rig, "button/reboot", "{}");
    device_send_hex(rig_tcp_to(rig, "magicyo"), LORRY_POSITIONS);
    rig_expect_none_retained(rig, LORRY_BUTTONS);
    json_decref(rig_expect_standing_json(rig, "state/gw/devices/" LORRY, "{'protocol_id':2}"));
    expect_entity(rig, "binary_sensor/connected", "{'device':{'model':'Magicyo'}}");
    device_send(rig_tcp(rig), report(LORRY, 2));
    expect_entity(rig, "button/reboot", "{}");
    rig_gateway_stop(rig);
    rig_gateway_start(rig, BOTH_PROTOCOLS);
    device_send_hex(rig_tcp_to(rig, "magicyo"), LORRY_POSITIONS);
    json_decref(rig_expect_standing_json(rig, "state/gw/devices/" LORRY, "{'protocol_id':2}"));
    rig_expect_none_retained(rig, LORRY_BUTTONS);
    rig_finish(rig);
}

// The gateway that had it takes away what only the former protocol has.
Test(home_assistant, device_that_moves_to_another_protocol_at_another_gateway) {
    struct rig *rig = rig_up(BOTH_PROTOCOLS), *second = rig_beside(rig);
    char changes[1024];
    snprintf(changes, sizeof changes, "{'mqtt':{'client_id':'second'},'commands':{'intake':false},%s",
             &BOTH_PROTOCOLS[1]);
    rig_gateway_start(second, changes);
    rig_expect(rig, "state/gw/instances/second/channels/1", NULL);
    device_send(rig_tcp(rig), report(LORRY, 1));
    expect_entity(rig, "button/reboot", "{}");
    device_send_hex(rig_tcp_to(second, "magicyo"), LORRY_POSITIONS);
    json_decref(rig_expect_standing_json(rig, "state/gw/devices/" LORRY, "{'protocol_id':2}"));
    rig_expect_none_retained(rig, LORRY_BUTTONS);
    json_decref(rig_expect_standing_json(
        rig, "/homeassistant/binary_sensor/trackbus_" LORRY "/connected/config",
        "{'availability_topic':'trackbus/state/gw/instances/second','device':{'model':'Magicyo'}}"));
    rig_finish(rig);
}

// It is on two channels, and the one that came later ends.
Test(home_assistant, device_whose_later_channel_ends) {
    struct rig *rig = rig_up(
        "{" ENABLED ",'channels':[{'id':1,'name':'mictrack','protocol':'mictrack','udp':'127.0.0.1:0'},"
        "{'id':2,'name':'magicyo','protocol':'magicyo','tcp':'127.0.0.1:0'}]}");
    int first = rig_udp(rig), later;
    device_send(first, report(LORRY, 1));
    expect_entity(rig, "button/reboot", "{}");
    later = rig_tcp_to(rig, "magicyo");
    device_send_hex(later, LORRY_POSITIONS);
    json_decref(rig_expect_standing_json(rig, "state/gw/devices/" LORRY, "{'protocol_id':2}"));
    close(later);
    rig_expect(rig, "log/gw/channels/2/connections/+/closed", NULL);
    device_send(first, report(LORRY, 2));
    json_decref(rig_expect_standing_json(rig, "state/gw/devices/" LORRY, "{'protocol_id':1}"));
    expect_entity(rig, "button/reboot", "{}");
    rig_finish(rig);
}

// --- one topic a device ---

#define WHOLE       "/homeassistant/device/+/config"
#define VAN_WHOLE   "/homeassistant/device/trackbus_42/config"
#define OWN_WHOLE   "/homeassistant/device/trackbus_gateway_trackbus/config"
#define OWN         "/homeassistant/+/+/config"
#define IN_REGISTRY "'devices':[{'ident':'" VAN "','id':42,'name':'Van 1'}]"
#define ENTITIES    "{'home_assistant':{'enabled':true}," IN_REGISTRY "}"
#define DEVICES     "{'home_assistant':{'enabled':true,'discovery':'device'}," IN_REGISTRY "}"

// The unique ids of what is retained on topics that match, as the keys of an object. One that is there twice is an error.
static void add_unique_id(json_t *ids, const json_t *config) {
    const char *id = text_of(config, "unique_id");
    if (*id == '\0')
        return; // a component that goes
    cr_assert(json_object_get(ids, id) == NULL, "%s is there twice", id);
    json_object_set_new(ids, id, json_true());
}

static void add_unique_ids(json_t *ids, const char *payload) {
    json_t *config = json_loads(payload, 0, NULL), *component;
    json_t *components = json_object_get(config, "cmps");
    const char *key;
    if (components == NULL)
        add_unique_id(ids, config);
    json_object_foreach(components, key, component) {
        add_unique_id(ids, component);
    }
    json_decref(config);
}

static json_t *unique_ids(struct rig *rig) {
    static const char *const filters[] = {CONFIGS, OWN};
    json_t *ids = json_object(), *payload;
    const char *topic;
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++) {
        json_t *all = rig_retained(rig, filters[i]);
        json_object_foreach(all, topic, payload) {
            add_unique_ids(ids, json_string_value(payload));
        }
        json_decref(all);
    }
    return ids;
}

static void expect_whole(struct rig *rig, const char *topic, const char *subset) {
    json_decref(rig_expect_standing_json(rig, topic, subset));
}

Test(home_assistant, whole_device) {
    struct rig *rig = rig_up(DEVICES);
    van_that_said(rig, report(VAN, 113));
    expect_whole(
        rig, VAN_WHOLE,
        "{'dev':{'identifiers':['trackbus_42'],'name':'Van 1','model':'Mictrack MT821, MT825',"
        "'via_device':'trackbus_gateway_trackbus'},'o':{'name':'trackbus'},"
        "'availability_topic':'trackbus/state/gw/instances/trackbus',"
        "'cmps':{'position_speed':{'p':'sensor','unique_id':'trackbus_42_position_speed','name':'Speed',"
        "'state_topic':'trackbus/state/gw/devices/42/telemetry/position.speed'},"
        "'position':{'p':'device_tracker','name':null},"
        "'reboot':{'p':'button','command_topic':'trackbus/command/gw/devices/42'}}}");
    expect_whole(rig, OWN_WHOLE, "{'cmps':{'link':{'p':'binary_sensor'},'version':{'p':'sensor'}}}");
    cr_assert_eq(rig_count_retained(rig, CONFIGS), 0);
    cr_assert_eq(rig_count_retained(rig, OWN), 2);
    rig_finish(rig);
}

// Home Assistant leaves out some of a device that comes again while it is at work on it.
Test(home_assistant, whole_device_comes_again_later) {
    struct rig *rig = rig_up(DEVICES);
    van_that_said(rig, report(VAN, 113));
    rig_expect(rig, VAN_WHOLE, "{'cmps':{}}");
    int64_t first = rig_clock();
    device_send(rig_tcp(rig), "MT;6;" VAN ";R0;10+190109091903+22.63827+114.02922+2.14+69+13+3744+3\r\n");
    rig_expect(rig, VAN_WHOLE, "{'cmps':{'battery_charging_status':{'p':'binary_sensor'}}}");
    cr_assert(rig_clock() - first > 3000, "after %lld ms", (long long)(rig_clock() - first));
    rig_expect(rig, VAN_WHOLE, "{'cmps':{'battery_charging_status':{'p':'binary_sensor'}}}");
    rig_finish(rig);
}

// What the other kind has left is told that it moves, and emptied; the same entities are there, each once. And back.
Test(home_assistant, another_kind_of_discovery) {
    struct rig *rig = rig_up(ENTITIES);
    close(van_that_said(rig, report(VAN, 113)));
    rig_expect(rig, "/homeassistant/button/trackbus_42/reboot/config", NULL);
    rig_expect(rig, "state/gw/devices/42/connected", "false");
    expect_whole(rig, "/homeassistant/sensor/trackbus_gateway_trackbus_version/config", "{}");
    json_t *before = unique_ids(rig), *after;
    cr_assert_eq(json_object_size(before), 17 + 5);
    rig_gateway_stop(rig);
    rig_gateway_start(rig, DEVICES);
    rig_expect(rig, "/homeassistant/button/trackbus_42/reboot/config", "{'migrate_discovery':true}");
    rig_expect(rig, "/homeassistant/sensor/trackbus_gateway_trackbus_outbox/config",
               "{'migrate_discovery':true}");
    rig_expect_none_retained(rig, CONFIGS);
    expect_whole(rig, OWN_WHOLE, "{'cmps':{'link':{}}}");
    expect_whole(rig, VAN_WHOLE, "{'cmps':{'reboot':{}}}"); // with what it has reported to the earlier run
    after = unique_ids(rig);
    cr_assert(json_equal(before, after), "%zu entities", json_object_size(after));
    json_decref(after);
    rig_gateway_stop(rig);
    rig_gateway_start(rig, ENTITIES);
    rig_expect(rig, VAN_WHOLE, "{'migrate_discovery':true}");
    rig_expect(rig, OWN_WHOLE, "{'migrate_discovery':true}");
    rig_expect_none_retained(rig, WHOLE);
    expect_whole(rig, "/homeassistant/sensor/trackbus_42/position_speed/config", "{'name':'Speed'}");
    expect_whole(rig, "/homeassistant/button/trackbus_42/reboot/config", "{'qos':1}");
    after = unique_ids(rig);
    cr_assert(json_equal(before, after), "%zu entities", json_object_size(after));
    json_decref(after);
    json_decref(before);
    rig_finish(rig);
}

// Also when the device has left the registry meanwhile.
Test(home_assistant, another_kind_of_discovery_of_a_device_that_is_gone) {
    struct rig *rig = rig_up(ENTITIES);
    close(van_that_said(rig, report(VAN, 113)));
    rig_expect(rig, "/homeassistant/button/trackbus_42/reboot/config", NULL);
    rig_expect(rig, "state/gw/devices/42/connected", "false");
    rig_gateway_stop(rig);
    rig_gateway_start(rig, "{'home_assistant':{'enabled':true,'discovery':'device'}}");
    expect_whole(rig, OWN_WHOLE, "{'cmps':{}}");
    rig_expect_none_retained(rig, CONFIGS);
    rig_expect_none_retained(rig, VAN_WHOLE);
    rig_finish(rig);
}

#define LORRY_WHOLE "/homeassistant/device/trackbus_" LORRY "/config"

// What only the former protocol has is named without more.
Test(home_assistant, whole_device_that_moves_to_another_protocol) {
    struct rig *rig = rig_up(
        "{'home_assistant':{'enabled':true,'unknown_devices':true,'discovery':'device'},'channels':[{'id':1,"
        "'name':'mictrack','protocol':'mictrack','tcp':'127.0.0.1:0'},{'id':2,'name':'magicyo','protocol':"
        "'magicyo','tcp':'127.0.0.1:0'}]}");
    device_send(rig_tcp(rig), report(LORRY, 1));
    expect_whole(rig, LORRY_WHOLE, "{'cmps':{'reboot':{'p':'button','name':'Restart'}}}");
    device_send_hex(rig_tcp_to(rig, "magicyo"), LORRY_POSITIONS);
    json_t *config = rig_expect_standing_json(rig, LORRY_WHOLE, "{'dev':{'model':'Magicyo'}}");
    const json_t *components = json_object_get(config, "cmps");
    cr_assert_eq(json_object_size(json_object_get(components, "reboot")), 1, "its kind alone");
    cr_assert_eq(json_object_size(json_object_get(components, "battery")), 1, "the same");
    cr_assert(json_object_size(json_object_get(components, "connected")) > 1);
    json_decref(config);
    rig_finish(rig);
}

// What it has reported to an earlier run is there from the beginning.
Test(home_assistant, whole_device_of_a_gateway_that_starts_again) {
    struct rig *rig = rig_up(DEVICES);
    close(van_that_said(rig, report(VAN, 113)));
    expect_whole(rig, VAN_WHOLE, "{'cmps':{'position_speed':{}}}");
    json_t *before = unique_ids(rig), *after;
    rig_gateway_stop(rig);
    rig_publish_retained(rig, VAN_WHOLE, "");
    rig_gateway_start(rig, DEVICES);
    expect_whole(rig, VAN_WHOLE, "{'cmps':{'position_speed':{}}}");
    after = unique_ids(rig);
    cr_assert(json_equal(before, after), "%zu entities", json_object_size(after));
    json_decref(after);
    json_decref(before);
    rig_finish(rig);
}

Test(home_assistant, whole_device_that_is_removed) {
    struct rig *rig = rig_up(DEVICES);
    van_that_said(rig, report(VAN, 113));
    expect_whole(rig, VAN_WHOLE, "{'cmps':{'reboot':{}}}");
    rig_gateway_stop(rig);
    rig_gateway_start(rig,
                      "{'home_assistant':{'enabled':true,'discovery':'device'},'unknown_devices':'reject'}");
    rig_expect_none_retained(rig, VAN_WHOLE);
    rig_finish(rig);
}

// --- switched off, or elsewhere ---

static void announce_all(struct rig *rig, const char *last) {
    close(van_that_said(rig, report(VAN, 1)));
    expect_whole(rig, last, "{}");
    rig_expect(rig, "state/gw/devices/42/connected", "false");
    rig_gateway_stop(rig);
}

Test(home_assistant, switched_off) {
    struct rig *rig = rig_up(ENTITIES);
    announce_all(rig, "/homeassistant/button/trackbus_42/reboot/config");
    rig_gateway_start(rig, "{" IN_REGISTRY "}");
    rig_expect_none_retained(rig, "/homeassistant/#");
    rig_expect_none_retained(rig, "state/gw/devices/42/alarms");
    rig_gateway_stop(rig);
    rig_gateway_start(rig, DEVICES);
    announce_all(rig, VAN_WHOLE);
    rig_gateway_start(rig, "{" IN_REGISTRY "}");
    rig_expect_none_retained(rig, "/homeassistant/#");
    rig_finish(rig);
}

Test(home_assistant, another_prefix) {
    struct rig *rig = rig_up(ENTITIES);
    announce_all(rig, "/homeassistant/button/trackbus_42/reboot/config");
    rig_gateway_start(rig, "{'home_assistant':{'enabled':true,'prefix':'ha'}," IN_REGISTRY "}");
    expect_whole(rig, "/ha/button/trackbus_42/reboot/config", "{}");
    expect_whole(rig, "/ha/sensor/trackbus_gateway_trackbus_version/config", "{}");
    rig_expect_none_retained(rig, "/homeassistant/#");
    rig_finish(rig);
}

Test(home_assistant, another_client_id) {
    struct rig *rig = rig_up(ENTITIES);
    announce_all(rig, "/homeassistant/button/trackbus_42/reboot/config");
    rig_gateway_start(rig, "{'mqtt':{'client_id':'other'},"
                           "'home_assistant':{'enabled':true}," IN_REGISTRY "}");
    expect_whole(rig, "/homeassistant/sensor/trackbus_gateway_other_version/config", "{}");
    expect_whole(rig, "/homeassistant/binary_sensor/trackbus_42/connected/config",
                 "{'device':{'via_device':'trackbus_gateway_other'}}");
    rig_expect_none_retained(rig, "/homeassistant/sensor/trackbus_gateway_trackbus_version/config");
    rig_expect_none_retained(rig, "/homeassistant/binary_sensor/trackbus_gateway_trackbus_link/config");
    rig_finish(rig);
}
