// trackbus-bare: publishes the messages that a gateway would publish, without one. What it reaches is as much
// as libmosquitto and the broker allow. Its loop is the gateway's: libuv polls, libmosquitto reads and
// writes.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/libmosquitto.h"
#include "tests/bench/course.h"

#define PACKETS       64   // to read or write in one turn
#define MISC_INTERVAL 1000 // milliseconds
#define TOPIC         "trackbus/message/gw/channels/%d/%015llu"
#define TOPIC_MAX     64

static struct course course;
static struct mosquitto *client;
static uv_poll_t poll_handle;
static uv_prepare_t prepare;
static uv_timer_t misc;
static int in_flight;
static unsigned *counts; // messages of each device
static char (*topics)[TOPIC_MAX];
static unsigned next_device;

static void check(int result) {
    if (result != MOSQ_ERR_SUCCESS)
        course_fail("libmosquitto: %s", mosquitto_strerror(result));
}

static void publish(unsigned device) {
    static uint8_t payload[REPORT_MAX];
    const struct reports *reports = course.reports;
    unsigned count = counts[device]++, sequence = REPORT_FIRST + count % REPORT_SEQUENCES;
    const struct pattern *pattern = &reports->json[(device + count) % reports->count];
    size_t length = pattern_write(pattern, device, sequence, payload);
    course_note(&course, device, sequence, bench_clock());
    in_flight++;
    check(mosquitto_publish_v5(client, NULL, topics[device], (int)length, payload, course.options.qos, false,
                               NULL));
}

static void send_all(struct course *of) {
    if (of->connected == 0)
        return;
    for (size_t allowance = course_allowance(of); allowance > 0 && in_flight < of->options.window;
         allowance--)
        publish(next_device++ % of->options.devices);
}

static void on_publish(struct mosquitto *of, void *context, int mid, int reason,
                       const mosquitto_property *properties) {
    if (reason >= 0x80)
        course_fail("the broker refused a message: %s", mosquitto_reason_string(reason));
    in_flight--;
}

static void on_connect(struct mosquitto *of, void *context, int reason, int flags,
                       const mosquitto_property *properties) {
    if (reason != 0)
        course_fail("the broker refused the connection: %s", mosquitto_reason_string(reason));
    course.connected = 1;
}

static void on_poll(uv_poll_t *handle, int status, int events) {
    if ((events & UV_READABLE) != 0)
        check(mosquitto_loop_read(client, PACKETS));
    if ((events & UV_WRITABLE) != 0)
        check(mosquitto_loop_write(client, PACKETS));
    send_all(&course);
}

static void on_prepare(uv_prepare_t *handle) {
    static int interest;
    int wanted = UV_READABLE | (mosquitto_want_write(client) ? UV_WRITABLE : 0);
    if (wanted != interest)
        uv_poll_start(&poll_handle, wanted, on_poll);
    interest = wanted;
}

static void on_misc(uv_timer_t *timer) {
    check(mosquitto_loop_misc(client));
}

static void connect_client(struct course *of) {
    if (client != NULL)
        return;
    client = mosquitto_new("trackbus-bare", true, NULL);
    mosquitto_int_option(client, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5);
    mosquitto_int_option(client, MOSQ_OPT_SEND_MAXIMUM, of->options.window);
    mosquitto_int_option(client, MOSQ_OPT_TCP_NODELAY, 1);
    mosquitto_connect_v5_callback_set(client, on_connect);
    mosquitto_publish_v5_callback_set(client, on_publish);
    check(mosquitto_connect_bind_v5(client, of->options.host, of->options.broker_port, 30, NULL, NULL));
    uv_poll_init(&of->loop, &poll_handle, mosquitto_socket(client));
    uv_prepare_init(&of->loop, &prepare);
    uv_prepare_start(&prepare, on_prepare);
    uv_timer_init(&of->loop, &misc);
    uv_timer_start(&misc, on_misc, MISC_INTERVAL, MISC_INTERVAL);
}

static bool is_connected(struct course *of) {
    return of->connected == 1;
}

static void finish(struct course *of) {
    mosquitto_disconnect(client);
    uv_poll_stop(&poll_handle);
    uv_prepare_stop(&prepare);
    mosquitto_destroy(client);
}

int main(int argc, char **argv) {
    static const struct course_actor actor = {
        .connect = connect_client, .is_ready = is_connected, .send = send_all, .finish = finish};
    course_begin(&course, argc, argv, &actor);
    counts = calloc(course.options.devices, sizeof *counts);
    topics = calloc(course.options.devices, sizeof *topics);
    if (counts == NULL || topics == NULL)
        course_fail("out of memory");
    for (unsigned i = 0; i < course.options.devices; i++)
        snprintf(topics[i], TOPIC_MAX, TOPIC, course.options.channel, (unsigned long long)(REPORT_IDENT + i));
    mosquitto_lib_init();
    return course_run(&course);
}
